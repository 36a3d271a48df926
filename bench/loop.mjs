/**
 * Verification-refinement problems per minute: our server through `POST /solve`, beside the same loop driven by a client on llama-server
 * with the same weights (int8 here, Q8_0 there), the same prompts and the same lengths. Our run goes first and is recorded; the
 * client then asks llama-server for the recorded prompts and for as many tokens as were generated here, with its prompt cache on.
 * Usage: STV_LLAMA_SERVER=/path/llama-server node bench/loop.mjs --gguf FILE [--problems 8] [--side-by-side 8] [--rounds 2]
 *        [--tokens 64] [--turns 1] [--threads N]
 * Prints one JSON object. Build first: npm run build.
 */
import { cpus } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { median } from './load.mjs';
import { root, startLlama, startStv } from './servers.mjs';

const { values } = parseArgs({
  options: {
    gguf: { type: 'string' },
    problems: { type: 'string', default: '8' },
    'side-by-side': { type: 'string', default: '8' },
    rounds: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '64' },
    /** Of both servers; where other work shares the cores, one is the fairer choice: llama.cpp's threads wait for each other. */
    threads: { type: 'string', default: String(cpus().length) },
    /** How often the two take turns. */
    turns: { type: 'string', default: '1' },
  },
});
const [numProblems, width, numRounds, maxTokens, numTurns] = [
  values.problems,
  values['side-by-side'],
  values.rounds,
  values.tokens,
  values.turns,
].map(Number);
const program = process.env.STV_LLAMA_SERVER;
if (program === undefined || values.gguf === undefined) throw new Error('STV_LLAMA_SERVER and --gguf are needed.');

const { openPack } = await import(path.join(root, 'dist/cli/open-pack.js'));
const { createPromptRenderer, toEnginePrompt } = await import(path.join(root, 'dist/stv/prompts.js'));
const pack = await openPack('smollm2');
const prompts = createPromptRenderer(pack);

const things = ['pens', 'books', 'apples', 'stamps', 'tickets', 'cups', 'lamps', 'chairs'];
/** Alike in length, different in every number, so that no problem finds another's answer in a cache. */
const problemAt = (index, turn) =>
  `A shop sells ${things[index % things.length]} for ${3 + index + 17 * turn} euros each and boxes for ${5 + 2 * index + turn} euros each. ` +
  `How much do ${2 + index} ${things[index % things.length]} and ${7 + index} boxes cost together?`;

async function post(url, body) {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}: ${(await answer.text()).slice(0, 300)}`);
  return answer.json();
}

/** Works through the items, `width` of them at a time. Seconds. */
async function timed(items, work) {
  let next = 0;
  const began = performance.now();
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < items.length) await work(items[next++]);
    }),
  );
  return (performance.now() - began) / 1000;
}

/** One run of the loop on our server; nothing is ever accepted, so every run has all its rounds. */
function solve(url, problem, seed) {
  return post(`${url}/solve`, {
    problem,
    seed,
    max_rounds: numRounds - 1,
    accept: { rule: 'score', threshold: 1 },
    // a budget that is never reached: no prefixes are scored to find a first error, which the other side does not do either
    budget: { tokens: 1_000_000 },
    generator: { max_tokens: maxTokens },
    verifier: { max_tokens: maxTokens },
  });
}

async function runOurs(url, turn) {
  const answers = [];
  const jobs = Array.from({ length: numProblems }, (_, index) => ({ problem: problemAt(index, turn), seed: index }));
  const seconds = await timed(jobs, async ({ problem, seed }) => {
    answers.push({ problem, answer: await solve(url, problem, seed) });
  });
  const sum = (pick) =>
    answers.reduce((total, { answer }) => total + pick(answer.usage.generator) + pick(answer.usage.verifier), 0);
  const [prompt, cached, generated] = [
    sum((usage) => usage.prompt_tokens),
    sum((usage) => usage.prompt_tokens_details.cached_tokens),
    sum((usage) => usage.completion_tokens),
  ];
  const accepted = sum((usage) => usage.completion_tokens_details.accepted_prediction_tokens);
  return { seconds, answers, prompt, computed: prompt - cached, generated, accepted_drafts: accepted };
}

/** The calls of a recorded run in their order, as llama-server takes them. Rendered before the clock starts. */
async function callsOf(url, { problem, answer }) {
  const render = async (prompt) => {
    const { messages, assistantPrefix = '' } = prompt;
    return (await post(`${url}/apply-template`, { messages })).prompt + assistantPrefix;
  };
  const calls = [];
  let last;
  for (const round of answer.chains[0].rounds) {
    const attempt =
      last === undefined
        ? prompts.attempt(problem)
        : prompts.refine({ problem, attempt: last.attempt, feedback: last.feedback, verdict: last.verdict });
    const verify = prompts.verify({ problem, solution: round.attempt });
    const { open, close } = pack.feedback;
    calls.push({ prompt: await render(toEnginePrompt(attempt)), tokens: round.usage.generator.completion_tokens });
    calls.push({ prompt: await render(toEnginePrompt(verify, open)), tokens: round.usage.verifier.completion_tokens });
    const verdict = toEnginePrompt(verify, open + round.feedback + close + pack.verdict.open);
    calls.push({ prompt: await render(verdict), tokens: 1, n_probs: 10 });
    last = round;
  }
  return calls;
}

async function runLlama(url, answers) {
  const runs = [];
  for (const recorded of answers) runs.push(await callsOf(url, recorded));
  const totals = { prompt: 0, computed: 0, generated: 0, prompt_ms: 0, decode_ms: 0 };
  const seconds = await timed(runs, async (calls) => {
    for (const { prompt, tokens, n_probs } of calls) {
      const {
        timings,
        tokens_cached: _,
        tokens_evaluated: evaluated,
      } = await post(`${url}/completion`, {
        prompt,
        n_predict: tokens,
        ignore_eos: true,
        cache_prompt: true,
        temperature: 1,
        ...(n_probs === undefined ? {} : { n_probs }),
      });
      totals.prompt += evaluated;
      totals.computed += timings.prompt_n;
      totals.generated += n_probs === undefined ? timings.predicted_n : 0;
      totals.prompt_ms += timings.prompt_ms;
      totals.decode_ms += timings.predicted_ms;
    }
  });
  return { seconds, ...totals };
}

const say = (text) => process.stderr.write(`${text}\n`);

const ours = await startStv(['--num-slots', String(Math.max(16, 2 * width)), '--threads', values.threads]);
const llama = await startLlama(program, values.gguf, {
  parallel: width,
  context: 2048,
  threads: Number(values.threads),
});
try {
  say('both servers are ready');
  await solve(ours.url, 'What is 1 + 1?', 1);
  await post(`${llama.url}/completion`, { prompt: 'What is 1 + 1?', n_predict: 16 });
  say('both are warm');
  const turns = [];
  for (let turn = 0; turn < numTurns; turn++) {
    const { answers, ...own } = await runOurs(ours.url, turn);
    say(`turn ${turn}: this server took ${own.seconds.toFixed(1)} s`);
    const theirs = await runLlama(llama.url, answers);
    say(`turn ${turn}: llama-server took ${theirs.seconds.toFixed(1)} s`);
    turns.push({ stv: own, llama: theirs });
  }
  const perMinute = (name) => (60 * numProblems) / median(turns.map((turn) => turn[name].seconds));
  const rounded = (value) => Number(value.toFixed(2));
  process.stdout.write(
    `${JSON.stringify(
      {
        cpu_model: cpus()[0]?.model,
        problems: numProblems,
        side_by_side: width,
        rounds: numRounds,
        max_tokens: maxTokens,
        threads: Number(values.threads),
        problems_per_minute: { stv: rounded(perMinute('stv')), llama: rounded(perMinute('llama')) },
        ratio: rounded(perMinute('stv') / perMinute('llama')),
        turns,
      },
      (_, value) => (typeof value === 'number' ? rounded(value) : value),
      2,
    )}\n`,
  );
} finally {
  await Promise.all([ours.stop(), llama.stop()]);
}
