// Second half of the truth check (after scripts/truth-smollm2.py and `npm run build`): our graphs against those logits.
//   node scripts/truth-smollm2.mjs MODEL.gguf OUT
// Prints a table: per weight format the largest difference of a logit, the mean and largest KL divergence per position and how
// often the most likely token is the same. Ends with status 1 when a limit is missed.
import { openSync, readFileSync, readSync } from 'node:fs';
import path from 'node:path';
import { loadCausalLM } from '../dist/models/load-causal-lm.js';
import { prepareModel } from '../dist/models/prepare-model.js';

const [checkpoint, out] = process.argv.slice(2);
if (checkpoint === undefined || out === undefined) {
  console.error('usage: node scripts/truth-smollm2.mjs MODEL.gguf OUT');
  process.exit(2);
}
const { vocabSize, windows } = JSON.parse(readFileSync(path.join(out, 'tokens.json'), 'utf8'));
const file = openSync(path.join(out, 'logits.f32'), 'r');
const longest = Math.max(...windows.map((window) => window.length));
const CHUNK = 64;

/** Log-softmax in double precision. */
function logProbabilities(logits, target) {
  let top = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > top) top = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  const logSum = top + Math.log(sum);
  for (let i = 0; i < logits.length; i++) target[i] = logits[i] - logSum;
}

function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

async function compare(weights, kv) {
  // as the server converts
  const cacheDir = path.join(out, 'cache');
  const { dir, manifest } = await prepareModel({ checkpoint, cacheDir, weights, calibrate: true });
  const model = loadCausalLM({
    dir,
    numSlots: 1,
    maxLength: longest,
    maxLanes: 1,
    maxBatchedTokens: CHUNK,
    kv,
  });
  const expected = new Float32Array(vocabSize);
  const p = new Float64Array(vocabSize);
  const q = new Float64Array(vocabSize);
  const result = { positions: 0, maxDifference: 0, klSum: 0, klMax: 0, agreed: 0 };
  let offset = 0;
  for (const window of windows) {
    for (let past = 0; past < window.length; past += CHUNK) {
      const tokens = window.slice(past, past + CHUNK);
      const logits = model.forward([{ slot: 0, past, tokens, logitRows: tokens.map((_, index) => index) }]);
      for (let row = 0; row < logits.numRows; row++) {
        const bytes = new Uint8Array(expected.buffer);
        if (readSync(file, bytes, 0, bytes.length, offset) !== bytes.length) throw new Error('logits.f32 ends early');
        offset += bytes.length;
        const actual = logits.row(row);
        for (let i = 0; i < vocabSize; i++) {
          const difference = Math.abs(actual[i] - expected[i]);
          // written so that NaN counts as the largest difference
          if (!(difference <= result.maxDifference)) result.maxDifference = difference;
        }
        logProbabilities(expected, p);
        logProbabilities(actual, q);
        let kl = 0;
        for (let i = 0; i < vocabSize; i++) kl += Math.exp(p[i]) * (p[i] - q[i]);
        result.klSum += kl;
        result.klMax = Math.max(result.klMax, kl);
        if (argmax(expected) === argmax(actual)) result.agreed++;
        result.positions++;
      }
    }
  }
  model.dispose();
  return { ...result, relativeError: manifest.quantization.relativeError };
}

const limits = [
  ['fp32', 'fp32', ({ maxDifference }) => maxDifference < 1e-2],
  ['int8', 'fp32', ({ klSum, agreed, positions }) => klSum / positions < 5e-3 && agreed / positions >= 0.97],
  ['int8', 'int8', ({ klSum, positions }) => klSum / positions < 1e-2],
  ['int4', 'fp32', () => true],
];
console.log(
  '| weights | cache | positions | max difference | mean KL | max KL | same first token | error of the weights |',
);
console.log('|---|---|---|---|---|---|---|---|');
for (const [weights, kv, isKept] of limits) {
  const result = await compare(weights, kv);
  const { positions, maxDifference, klSum, klMax, agreed, relativeError } = result;
  const cells = [
    weights,
    kv,
    positions,
    maxDifference.toExponential(1),
    (klSum / positions).toExponential(1),
    klMax.toExponential(1),
    `${((100 * agreed) / positions).toFixed(2)} %`,
    `${(100 * relativeError).toFixed(2)} %`,
  ];
  console.log(`| ${cells.join(' | ')} |`);
  if (positions < 2000 || !isKept(result)) {
    console.error(`${weights} with a cache of ${kv} misses its limit.`);
    process.exitCode = 1;
  }
}
