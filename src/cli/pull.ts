/** `stv pull`: everything of a pack that serving would fetch and convert, done ahead. */
import type { Config } from '../config.ts';
import { prepareRoles } from './load-service.ts';
import { openPack } from './open-pack.ts';
import { createProgressLine } from './progress.ts';

export async function pullPack(config: Config): Promise<void> {
  const progress = createProgressLine();
  try {
    const pack = await openPack(config.pack);
    const models = await prepareRoles(pack, {
      config,
      report: ({ what, done, total, unit }) => {
        if (done !== undefined) progress.update(what, done, total, unit);
      },
    });
    progress.finish();
    for (const model of models) process.stdout.write(`${model.name}\n  ${model.dir}\n`);
  } finally {
    progress.finish();
  }
}
