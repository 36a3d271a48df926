/**
 * The slow truth: llama, qwen2 and qwen3 as plain loops in double precision, one sequence, no cache. Written from the models'
 * equations and held against the golden logits of `transformers`; everything fast is held against this.
 */
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import type { ModelConfig } from '../../src/models/model-config.ts';
import { ropeTables } from '../../src/models/rope.ts';

type Vector = Float64Array<ArrayBuffer>;

/** Logits of every position of `tokens`, `[tokens.length][vocabSize]`. */
export function referenceForward(checkpoint: Checkpoint, tokens: readonly number[]): Float32Array[] {
  const { config } = checkpoint;
  const embedding = readMatrix(checkpoint, 'model.embed_tokens.weight', config.hiddenSize);
  const head = config.tieWordEmbeddings ? embedding : readMatrix(checkpoint, 'lm_head.weight', config.hiddenSize);
  const rope = ropeTables(config, tokens.length);
  let hidden = tokens.map((token) => Float64Array.from(row(embedding, token)));
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const weights = new Layer(checkpoint, `model.layers.${layer}.`);
    const attended = attention(
      weights,
      hidden.map((x) => rmsNorm(x, weights.vector('input_layernorm.weight'), config.rmsNormEps)),
      { config, rope },
    );
    hidden = hidden.map((x, t) => add(x, attended[t] as Vector));
    hidden = hidden.map((x) => {
      const normed = rmsNorm(x, weights.vector('post_attention_layernorm.weight'), config.rmsNormEps);
      return add(x, feedForward(weights, normed, config));
    });
  }
  const finalNorm = checkpoint.readFloat32('model.norm.weight');
  return hidden.map((x) => Float32Array.from(multiply(head, rmsNorm(x, finalNorm, config.rmsNormEps))));
}

interface Matrix {
  readonly values: Float32Array;
  readonly columns: number;
}

function readMatrix(checkpoint: Checkpoint, name: string, columns: number): Matrix {
  return { values: checkpoint.readFloat32(name), columns };
}

function row(matrix: Matrix, index: number): Float32Array {
  return matrix.values.subarray(index * matrix.columns, (index + 1) * matrix.columns);
}

/** The tensors of one layer, each read once. */
class Layer {
  readonly #checkpoint: Checkpoint;
  readonly #prefix: string;
  readonly #cache = new Map<string, Float32Array>();

  constructor(checkpoint: Checkpoint, prefix: string) {
    this.#checkpoint = checkpoint;
    this.#prefix = prefix;
  }

  vector(name: string): Float32Array {
    const cached = this.#cache.get(name) ?? this.#checkpoint.readFloat32(this.#prefix + name);
    this.#cache.set(name, cached);
    return cached;
  }

  /** `x` times the transposed weight, plus the bias where the checkpoint has one. */
  linear(part: string, x: Vector): Vector {
    const y = multiply({ values: this.vector(`${part}.weight`), columns: x.length }, x);
    return this.has(`${part}.bias`) ? add(y, this.vector(`${part}.bias`)) : y;
  }

  has(name: string): boolean {
    return this.#checkpoint.tensors.has(this.#prefix + name);
  }
}

/** Causal self-attention with grouped key-value heads over the normed hidden states of all positions. */
function attention(
  weights: Layer,
  inputs: readonly Vector[],
  context: { readonly config: ModelConfig; readonly rope: ReturnType<typeof ropeTables> },
): Vector[] {
  const { config, rope } = context;
  const { headDim, numAttentionHeads, numKeyValueHeads } = config;
  const prepare = (part: 'q' | 'k'): Vector[][] =>
    inputs.map((x, position) =>
      heads(weights.linear(`self_attn.${part}_proj`, x), headDim).map((head) => {
        const norm = `self_attn.${part}_norm.weight`;
        const normed = weights.has(norm) ? rmsNorm(head, weights.vector(norm), config.rmsNormEps) : head;
        return rotate(normed, rope, position);
      }),
    );
  const queries = prepare('q');
  const keys = prepare('k');
  const values = inputs.map((x) => heads(weights.linear('self_attn.v_proj', x), headDim));
  const queriesPerKey = numAttentionHeads / numKeyValueHeads;
  return inputs.map((_, position) => {
    const output = new Float64Array(numAttentionHeads * headDim);
    for (let head = 0; head < numAttentionHeads; head++) {
      const group = Math.floor(head / queriesPerKey);
      const query = queries[position]?.[head] as Vector;
      const scores: number[] = [];
      for (let past = 0; past <= position; past++) {
        scores.push(dot(query, keys[past]?.[group] as Vector) / Math.sqrt(headDim));
      }
      softmax(scores).forEach((weight, past) => {
        const value = values[past]?.[group] as Vector;
        for (let i = 0; i < headDim; i++)
          output[head * headDim + i] = at(output, head * headDim + i) + weight * at(value, i);
      });
    }
    return weights.linear('self_attn.o_proj', output);
  });
}

/** Pairs (i, i + headDim / 2) turn by the angle of pair i at this position. */
function rotate(head: Vector, rope: ReturnType<typeof ropeTables>, position: number): Vector {
  const half = head.length / 2;
  const output = new Float64Array(head.length);
  for (let i = 0; i < half; i++) {
    const cos = at(rope.cos, position * half + i);
    const sin = at(rope.sin, position * half + i);
    output[i] = at(head, i) * cos - at(head, i + half) * sin;
    output[i + half] = at(head, i + half) * cos + at(head, i) * sin;
  }
  return output;
}

function feedForward(weights: Layer, x: Vector, config: ModelConfig): Vector {
  const gate = weights.linear('mlp.gate_proj', x);
  const up = weights.linear('mlp.up_proj', x);
  const inner = new Float64Array(config.intermediateSize);
  for (let i = 0; i < inner.length; i++) inner[i] = (at(gate, i) / (1 + Math.exp(-at(gate, i)))) * at(up, i);
  return weights.linear('mlp.down_proj', inner);
}

function rmsNorm(x: Vector, weight: Float32Array, eps: number): Vector {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps);
  return x.map((value, i) => value * scale * at(weight, i));
}

function softmax(scores: readonly number[]): number[] {
  const largest = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - largest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

function multiply(matrix: Matrix, x: Vector): Vector {
  return Float64Array.from({ length: matrix.values.length / matrix.columns }, (_, i) => dot(row(matrix, i), x));
}

function dot(a: Float32Array | Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < b.length; i++) sum += at(a, i) * at(b, i);
  return sum;
}

function add(a: Vector, b: Float32Array | Vector): Vector {
  return a.map((value, i) => value + at(b, i));
}

function heads(x: Vector, headDim: number): Vector[] {
  return Array.from({ length: x.length / headDim }, (_, i) => x.subarray(i * headDim, (i + 1) * headDim));
}

/** An element that the loop's bounds make sure of; one that is missing would turn the result into NaN and fail the test. */
function at(values: Float32Array | Vector, index: number): number {
  return values[index] ?? Number.NaN;
}
