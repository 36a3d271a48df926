/** lm-eval's `local-completions` on tasks of our own: it sends token ids and reads log-probabilities out of the echo. */
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { preparedFolder } from '../../src/models/prepared-model.ts';
import { dataDir, freshFolder, type RunningServer, startServer } from '../support/start-server.ts';
import { clientsFolder, pythonProgram, type Report, runToEnd } from './client-programs.ts';

let server: RunningServer;
const folder = freshFolder();

beforeAll(async () => {
  server = await startServer();
  cpSync(path.join(clientsFolder, 'lm-eval'), folder, { recursive: true });
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.yaml'))) {
    const task = readFileSync(path.join(folder, file), 'utf8');
    writeFileSync(path.join(folder, file), task.replaceAll('DATA_FOLDER', folder));
  }
});

afterAll(async () => {
  expect(await server.stop()).toBe(0);
});

/** lm-eval counts tokens itself, with the tokenizer of the prepared weights that serve `generator`: the folder is shared by packs. */
async function tokenizerFolder(): Promise<string> {
  const { data } = (await (await fetch(`${server.url}/v1/models`)).json()) as Report;
  const { root } = data.find((model: Report) => model['id'] === 'generator');
  const digest = /@(sha256:[0-9a-f]{64})$/.exec(root)?.[1] ?? '';
  return preparedFolder(path.join(dataDir, 'models'), digest);
}

/** The log-probability of `continuation` after `text`, by our own reading of the route. */
async function logLikelihood(text: string, continuation: string): Promise<number> {
  const answer = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'generator',
      prompt: text + continuation,
      max_tokens: 0,
      echo: true,
      logprobs: 0,
    }),
  });
  const { logprobs } = ((await answer.json()) as Report)['choices'][0];
  return (logprobs.token_logprobs as number[]).reduce(
    (sum, logprob, index) => (logprobs.text_offset[index] >= text.length ? sum + logprob : sum),
    0,
  );
}

it('scores choices and generates', async () => {
  const output = path.join(folder, 'out');
  const settings = {
    model: 'generator',
    base_url: `${server.url}/v1/completions`,
    tokenizer_backend: 'huggingface',
    tokenizer: await tokenizerFolder(),
    max_length: '512',
  };
  const args = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  await runToEnd(
    pythonProgram('clients', 'lm_eval'),
    [
      ...['run', '--model', 'local-completions', '--model_args', args.join(',')],
      ...['--tasks', 'stv_everyday,stv_copy', '--include_path', folder, '--output_path', output, '--log_samples'],
    ],
    { HF_HOME: path.join(folder, 'cache'), HF_HUB_OFFLINE: '1', HF_DATASETS_OFFLINE: '1' },
  );
  const reports = path.join(output, readdirSync(output)[0] ?? '');
  const read = (prefix: string): string => {
    const file = readdirSync(reports).find((name) => name.startsWith(prefix));
    return readFileSync(path.join(reports, file ?? prefix), 'utf8');
  };
  const { results } = JSON.parse(read('results')) as Report;
  expect(results['stv_everyday']['acc,none']).toBe(1);
  expect(results['stv_copy']['exact_match,none']).toBe(1);

  const samples = read('samples_stv_everyday')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Report);
  expect(samples).toHaveLength(2);
  for (const { doc, filtered_resps } of samples) {
    for (const [index, choice] of (doc.choices as string[]).entries()) {
      const [logprob] = filtered_resps[index] as [number | string];
      expect(Number(logprob)).toBeCloseTo(await logLikelihood(doc.text, ` ${choice}`), 3);
    }
  }
});
