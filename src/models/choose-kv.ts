/** Measures the int8 cache beside the float one: what it loses on the model's own text, and how long a step takes with each. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { PreparedFolder } from './calibrate.ts';
import type { CausalLM } from './causal-lm.ts';
import type { KvFormat } from './lane-graph.ts';
import { loadCausalLM } from './load-causal-lm.ts';
import { type CalibrationReport, type KvFigures, readManifest } from './prepared-model.ts';

/** Context of the timed steps; the content of a cache does not change the time. */
const PAST = 768;
const DECODE_LANES = 4;
const PREFILL_TOKENS = 64;
const REPEATS = 5;
/** Above this loss `auto` keeps floats however fast int8 is. Nats per position. */
const MAX_KL = 2e-3;
/** A smaller gain in time is not worth a loss in exactness. */
const MIN_GAIN = 0.03;

/** Blocks for a step at a time. `sequences` are what the model wrote. */
export async function chooseKv(folder: PreparedFolder, sequences: readonly Int32Array[]): Promise<CalibrationReport> {
  // two sequences: the rows of logits of the float cache wait in memory for those of the other
  const compared = sequences.slice(0, 2);
  const exact: Float32Array[] = [];
  const fp32 = await measure(folder, 'fp32', compared, (row) => exact.push(row.slice()));
  let klSum = 0;
  let agreed = 0;
  let next = 0;
  const int8 = await measure(folder, 'int8', compared, (row) => {
    const expected = exact[next++] as Float32Array; // the same rows in the same order
    klSum += divergence(expected, row);
    if (argmax(expected) === argmax(row)) agreed++;
  });
  const kvKl = klSum / exact.length;
  const isBetter = kvKl <= MAX_KL && cost(int8) < (1 - MIN_GAIN) * cost(fp32);
  const positions = sequences.reduce((sum, { length }) => sum + length, 0);
  return { positions, kvKl, kvAgreement: agreed / exact.length, fp32, int8, kv: isBetter ? 'int8' : 'fp32' };
}

/** Milliseconds of one token read and one token written: refinement reads about as much as it writes. */
function cost({ decodeMs, prefillMs }: KvFigures): number {
  return prefillMs / PREFILL_TOKENS + decodeMs / DECODE_LANES;
}

async function measure(
  { runtime, dir, signal }: PreparedFolder,
  kv: KvFormat,
  sequences: readonly Int32Array[],
  onRow: (row: Float32Array) => void,
): Promise<KvFigures> {
  const { config } = readManifest(dir);
  const maxLength = Math.min(PAST + PREFILL_TOKENS, config.maxPositionEmbeddings);
  const sizes = { numSlots: DECODE_LANES, maxLength, maxLanes: DECODE_LANES, maxBatchedTokens: PREFILL_TOKENS };
  const model = loadCausalLM({ runtime, dir, ...sizes, kv });
  try {
    for (const tokens of sequences) {
      // in two pieces: the second reads the first out of the cache
      for (const [from, to] of [
        [0, tokens.length >> 1],
        [tokens.length >> 1, tokens.length],
      ] as const) {
        signal?.throwIfAborted();
        const piece = tokens.subarray(from, to);
        const logits = model.forward([{ slot: 0, past: from, tokens: piece, logitRows: piece.map((_, row) => row) }]);
        for (let row = 0; row < logits.numRows; row++) onRow(logits.row(row));
        await nextTurn();
      }
    }
    const past = Math.max(0, maxLength - PREFILL_TOKENS);
    const decode = Array.from({ length: DECODE_LANES }, (_, slot) => ({ slot, past, tokens: [0], logitRows: [0] }));
    const prefill = [{ slot: 0, past, tokens: new Int32Array(maxLength - past), logitRows: [0] }];
    return { decodeMs: await fastest(model, decode, signal), prefillMs: await fastest(model, prefill, signal) };
  } finally {
    model.dispose();
  }
}

/** The fastest of some runs: other work of the machine only ever adds. */
async function fastest(
  model: CausalLM,
  lanes: Parameters<CausalLM['forward']>[0],
  signal: AbortSignal | undefined,
): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    signal?.throwIfAborted();
    const started = performance.now();
    model.forward(lanes);
    best = Math.min(best, performance.now() - started);
    await nextTurn();
  }
  return best;
}

/** KL divergence of two rows of logits, in nats. */
function divergence(expected: Float32Array, actual: Float32Array): number {
  const expectedSum = logSumExp(expected);
  const actualSum = logSumExp(actual);
  let sum = 0;
  for (let i = 0; i < expected.length; i++) {
    const p = (expected[i] as number) - expectedSum; // rows are of one length
    sum += Math.exp(p) * (p - ((actual[i] as number) - actualSum));
  }
  return sum;
}

function logSumExp(values: Float32Array): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const value of values) if (value > top) top = value;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - top);
  return top + Math.log(sum);
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
