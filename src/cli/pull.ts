/** `stv pull`: everything of a pack that serving would fetch and convert, done ahead. */
import type { Config } from '../config.ts';
import { prepareRoles } from './load-service.ts';
import { openPack } from './open-pack.ts';
import { createProgressLine } from './progress.ts';
import { withRemoteRoles } from './remote-roles.ts';

export async function pullPack(config: Config, isJson: boolean): Promise<void> {
  const progress = createProgressLine();
  try {
    const pack = withRemoteRoles(await openPack(config.pack), config);
    const models = await prepareRoles(pack, {
      config,
      report: ({ what, done, total, unit }) => {
        if (done !== undefined) progress.update(what, done, total, unit);
      },
    });
    progress.finish();
    if (isJson) {
      const found = models.map(({ name, dir }) => ({ name, dir }));
      process.stdout.write(`${JSON.stringify({ object: 'pull', models: found }, null, 2)}\n`);
      return;
    }
    for (const model of models) process.stdout.write(`${model.name}\n  ${model.dir}\n`);
  } finally {
    progress.finish();
  }
}
