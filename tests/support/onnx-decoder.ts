/**
 * Writes a checkpoint's llama as exporters of ready-made decoders do: `model.onnx` with external data, config.json and tokenizer.json
 * in one folder; `input_ids`, `attention_mask`, `position_ids` and `past_key_values.N.*` in, `logits` and `present.N.*` out.
 */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GraphBuilder } from '../../src/models/graph-builder.ts';
import { openCheckpoint } from '../../src/models/open-checkpoint.ts';
import { ropeTables } from '../../src/models/rope.ts';

const MICROSOFT = 'com.microsoft';

export interface WriteDecoderOptions {
  readonly checkpoint: string;
  readonly folder: string;
  /** Of the graph below the folder. */
  readonly file?: string;
  /** An input that no server knows. */
  readonly extraInput?: string;
}

export function writeOnnxDecoder(options: WriteDecoderOptions): string {
  const { checkpoint: path, folder, file = 'model.onnx', extraInput } = options;
  const checkpoint = openCheckpoint(path);
  const { config } = checkpoint;
  const { numAttentionHeads, numKeyValueHeads, headDim, numHiddenLayers, hiddenSize, intermediateSize } = config;
  const builder = new GraphBuilder('ready-made');
  const data: Uint8Array[] = [];
  const places = new Map<string, { offset: number; byteLength: number }>();
  let offset = 0;
  const store = (name: string, dims: readonly number[], values: Float32Array): string => {
    const bytes = new Uint8Array(values.slice().buffer);
    data.push(bytes);
    places.set(name, { offset, byteLength: bytes.length });
    offset += bytes.length;
    return builder.external(name, 'float32', dims);
  };
  const tensor = (name: string, dims: readonly number[]): string => store(name, dims, checkpoint.readFloat32(name));
  const linear = (input: string, name: string, [rows, columns]: readonly [number, number]): string =>
    builder.node('FusedMatMul', [input, tensor(`${name}.weight`, [rows, columns])], {
      name,
      domain: MICROSOFT,
      attributes: { transB: 1 },
    });
  const norm = (input: string, name: string): string =>
    builder.node('SimplifiedLayerNormalization', [input, tensor(`${name}.weight`, [hiddenSize])], {
      name,
      attributes: { axis: -1, epsilon: { float: config.rmsNormEps }, stash_type: 1 },
    });

  builder.input('input_ids', 'int64', ['batch', 'length']);
  builder.input('attention_mask', 'int64', ['batch', 'total']);
  builder.input('position_ids', 'int64', ['batch', 'length']);
  if (extraInput !== undefined) builder.input(extraInput, 'int64', [1]);
  const tables = ropeTables(config, config.maxPositionEmbeddings);
  const tableShape = [config.maxPositionEmbeddings, headDim / 2];
  const cos = store('cos', tableShape, tables.cos);
  const sin = store('sin', tableShape, tables.sin);
  const axis = builder.int64Constant('axis', [1]);
  const count = builder.node('ReduceSum', ['attention_mask', axis], { name: 'count', attributes: { keepdims: 0 } });
  const last = builder.node('Sub', [count, axis], { name: 'last' });
  const seqlens = builder.node('Cast', [last], { name: 'seqlens', attributes: { to: 6 } });
  const total = builder.node('Cast', [count], { name: 'total_length', attributes: { to: 6 } });
  const rotate = (input: string, name: string): string =>
    builder.node('RotaryEmbedding', [input, 'position_ids', cos, sin], { name, domain: MICROSOFT });
  let hidden = builder.node(
    'Gather',
    [tensor('model.embed_tokens.weight', [config.vocabSize, hiddenSize]), 'input_ids'],
    {
      name: 'embedded',
      attributes: { axis: 0 },
    },
  );
  for (let layer = 0; layer < numHiddenLayers; layer++) {
    const name = `model.layers.${layer}`;
    const attn = `${name}.self_attn`;
    const normed = norm(hidden, `${name}.input_layernorm`);
    const widths = { q: numAttentionHeads * headDim, kv: numKeyValueHeads * headDim };
    const query = rotate(linear(normed, `${attn}.q_proj`, [widths.q, hiddenSize]), `${attn}.q_rotated`);
    const key = rotate(linear(normed, `${attn}.k_proj`, [widths.kv, hiddenSize]), `${attn}.k_rotated`);
    const value = linear(normed, `${attn}.v_proj`, [widths.kv, hiddenSize]);
    const cache = (length: string) => ['batch', numKeyValueHeads, length, headDim];
    for (const part of ['key', 'value']) {
      builder.input(`past_key_values.${layer}.${part}`, 'float32', cache('past'));
      builder.output(`present.${layer}.${part}`, 'float32', cache('total'));
    }
    const past = [`past_key_values.${layer}.key`, `past_key_values.${layer}.value`];
    const attended = builder.node('GroupQueryAttention', [query, key, value, ...past, seqlens, total], {
      name: attn,
      domain: MICROSOFT,
      attributes: { num_heads: numAttentionHeads, kv_num_heads: numKeyValueHeads },
      outputs: [attn, `present.${layer}.key`, `present.${layer}.value`],
    });
    const projected = linear(attended, `${attn}.o_proj`, [hiddenSize, widths.q]);
    hidden = builder.node('Add', [hidden, projected], { name: `${name}.attended` });
    const mlpIn = norm(hidden, `${name}.post_attention_layernorm`);
    const gate = linear(mlpIn, `${name}.mlp.gate_proj`, [intermediateSize, hiddenSize]);
    const up = linear(mlpIn, `${name}.mlp.up_proj`, [intermediateSize, hiddenSize]);
    const sigmoid = builder.node('Sigmoid', [gate], { name: `${name}.mlp.sigmoid` });
    const silu = builder.node('Mul', [gate, sigmoid], { name: `${name}.mlp.silu` });
    const gated = builder.node('Mul', [silu, up], { name: `${name}.mlp.gated` });
    const down = linear(gated, `${name}.mlp.down_proj`, [hiddenSize, intermediateSize]);
    hidden = builder.node('Add', [hidden, down], { name: `${name}.out` });
  }
  const head = config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight';
  if (!config.tieWordEmbeddings) tensor(head, [config.vocabSize, hiddenSize]);
  builder.node('FusedMatMul', [norm(hidden, 'model.norm'), head], {
    name: 'logits',
    domain: MICROSOFT,
    attributes: { transB: 1 },
  });
  builder.output('logits', 'float32', ['batch', 'length', config.vocabSize]);
  checkpoint.close();

  const graph = join(folder, file);
  mkdirSync(join(graph, '..'), { recursive: true });
  const place = (name: string) => ({
    file: 'model.onnx_data',
    ...(places.get(name) as { offset: number; byteLength: number }),
  });
  writeFileSync(graph, builder.finish(place, '1'));
  writeFileSync(join(graph, '..', 'model.onnx_data'), Buffer.concat(data));
  for (const name of ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join(path, name), join(folder, name));
  }
  return folder;
}
