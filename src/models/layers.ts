/**
 * The layers of a decoder as functions from value names to value names: embedding, linear, RMSNorm, attention over lanes, gated
 * MLP, LM head. Node and weight names are those of the checkpoint's modules; fused ones are named after their parts.
 */
import {
  attendedSite,
  cacheScalesOf,
  type LaneGraph,
  laneNames,
  qkvWidth,
  type WeightFormat,
  type WeightSource,
} from './lane-graph.ts';

/**
 * Columns per scale of a quantized matrix, as checkpoints have them. The kernel quantizes activations in the same blocks. Half the
 * block is more exact, but costs 10 to 30 % of a step; scales between channels (`ActivationSite`) give more for nothing (docs/log.md).
 */
export const BLOCK_SIZE = 32;
const MICROSOFT = 'com.microsoft';
/** `TensorProto.DataType`. */
const ONNX_FLOAT = 1;
const ONNX_FLOAT16 = 10;
/** int8 activations against the integer weights: the fast kernels. */
const ACCURACY_LEVEL = 4;

/** Blocks run along the columns; a matrix that they do not divide stays float. */
function storedFormat(format: WeightFormat, columns: number): WeightFormat {
  return columns % BLOCK_SIZE === 0 ? format : 'fp32';
}

/** Embedding and LM head keep 8 bits in an int4 model: they are the most sensitive and 4 bits save no time there. */
function embeddingFormat(format: WeightFormat, columns: number): WeightFormat {
  return storedFormat(format === 'int4' ? 'int8' : format, columns);
}

export interface LinearOptions {
  /** Of the module; its weight is `${name}.weight`. */
  readonly name: string;
  /** Modules whose rows are stacked; `name` is made of them alone when it has no tensor of its own. */
  readonly parts: readonly WeightSource[];
  readonly columns: number;
  readonly bias?: boolean;
  /** Where the input comes from, if its channels have scales. */
  readonly site?: string;
}

/** `[1, T, columns]` -> `[1, T, rows]` */
export function linear(graph: LaneGraph, input: string, options: LinearOptions): string {
  const { builder } = graph;
  const { name, columns, bias = false, parts, site } = options;
  const weight = `${name}.weight`;
  const format = storedFormat(graph.format, columns);
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const scaled = site === undefined ? {} : { times: site };
  graph.weight({ kind: 'matrix', name: weight, sources: tensorsOf(parts, 'weight'), columns, format, ...scaled });
  if (bias) {
    graph.weight({ kind: 'vector', name: `${name}.bias`, sources: tensorsOf(parts, 'bias') });
    builder.external(`${name}.bias`, 'float32', [rows]);
  }
  if (format === 'fp32') {
    builder.external(weight, 'float32', [rows, columns]);
    const product = matMulTransposed(graph, input, { name: bias ? `${name}.product` : name, weight });
    return bias ? builder.node('Add', [product, `${name}.bias`], { name }) : product;
  }
  const bits = format === 'int4' ? 4 : 8;
  builder.external(weight, 'uint8', [rows, columns / BLOCK_SIZE, (BLOCK_SIZE * bits) / 8]);
  builder.external(scalesOf(weight), 'float32', [rows, columns / BLOCK_SIZE]);
  return matMulBlocks(graph, input, { name, weight, bits, rows, columns, ...(bias && { bias: `${name}.bias` }) });
}

function tensorsOf(modules: readonly WeightSource[], tensor: 'weight' | 'bias'): readonly WeightSource[] {
  return modules.map((module) => ({ ...module, name: `${module.name}.${tensor}` }));
}

/** The norm before the LM head. */
export const FINAL_NORM = 'model.norm';

/** Weight that takes a site's scales out again. */
export function inverseScalesOf(site: string): string {
  return `${site}.inverse_scales`;
}

/** Name of the scales that go with an integer matrix. */
export function scalesOf(weight: string): string {
  return `${weight}_scales`;
}

function matMulTransposed({ builder }: LaneGraph, input: string, at: { name: string; weight: string }): string {
  return builder.node('FusedMatMul', [input, at.weight], {
    name: at.name,
    domain: MICROSOFT,
    attributes: { transB: 1 },
  });
}

interface BlocksOptions {
  readonly name: string;
  readonly weight: string;
  readonly scales?: string;
  readonly bits: 4 | 8;
  readonly rows: number;
  readonly columns: number;
  readonly bias?: string;
}

function matMulBlocks({ builder }: LaneGraph, input: string, options: BlocksOptions): string {
  const { name, weight, scales = scalesOf(weight), bits, rows, columns, bias } = options;
  // zero_points and g_idx are left out: the weights are symmetric about the middle of their range
  const inputs = bias === undefined ? [input, weight, scales] : [input, weight, scales, '', '', bias];
  return builder.node('MatMulNBits', inputs, {
    name,
    domain: MICROSOFT,
    attributes: { N: rows, K: columns, bits, block_size: BLOCK_SIZE, accuracy_level: ACCURACY_LEVEL },
  });
}

/** A float embedding that is the LM head too is read as it stands by both, so the head's input must keep its size. */
function headIsScaled({ config, format }: LaneGraph): boolean {
  return !config.tieWordEmbeddings || embeddingFormat(format, config.hiddenSize) !== 'fp32';
}

/** Token ids `[1, T]` -> `[1, T, hidden]` */
export function embedding(graph: LaneGraph, name: string): string {
  const { builder, config } = graph;
  const { vocabSize: rows, hiddenSize: columns } = config;
  const weight = `${name}.weight`;
  const format = embeddingFormat(graph.format, columns);
  const isScaled = config.tieWordEmbeddings && headIsScaled(graph);
  const scaled = isScaled ? { times: FINAL_NORM } : {};
  graph.weight({ kind: 'matrix', name: weight, sources: [{ name: weight, rows }], columns, format, ...scaled });
  if (format === 'fp32') {
    builder.external(weight, 'float32', [rows, columns]);
    return builder.node('Gather', [weight, laneNames.inputIds], { name, attributes: { axis: 0 } });
  }
  builder.external(weight, 'uint8', [rows, columns]);
  builder.external(scalesOf(weight), 'float32', [rows, columns / BLOCK_SIZE]);
  const gathered = isScaled ? `${name}.scaled` : name;
  builder.node('GatherBlockQuantized', [weight, laneNames.inputIds, scalesOf(weight)], {
    name: gathered,
    domain: MICROSOFT,
    attributes: { bits: 8, block_size: BLOCK_SIZE, gather_axis: 0, quantize_axis: 1 },
  });
  if (!isScaled) return gathered;
  // the columns carry the scales of the LM head's input, which an embedding has to be without
  const inverse = inverseScalesOf(FINAL_NORM);
  graph.weight({ kind: 'scales', name: inverse, length: columns });
  builder.external(inverse, 'float32', [columns]);
  return builder.node('Mul', [gathered, inverse], { name });
}

/** `[1, R, hidden]` -> `logits [1, R, vocab]`, with the embedding's own bytes where the weights are tied. */
export function lmHead(graph: LaneGraph, input: string, embeddingName: string): void {
  const { builder, config } = graph;
  const { vocabSize: rows, hiddenSize: columns } = config;
  const name = laneNames.logits;
  const format = embeddingFormat(graph.format, columns);
  const tied = `${embeddingName}.weight`;
  if (!config.tieWordEmbeddings) {
    graph.weight({
      kind: 'matrix',
      name: 'lm_head.weight',
      sources: [{ name: 'lm_head.weight', rows }],
      columns,
      format,
      times: FINAL_NORM,
    });
  }
  if (format === 'fp32') {
    const weight = config.tieWordEmbeddings ? tied : builder.external('lm_head.weight', 'float32', [rows, columns]);
    matMulTransposed(graph, input, { name, weight });
    return;
  }
  const blocks = { name: 'lm_head.weight', type: 'uint8', dims: [rows, columns / BLOCK_SIZE, BLOCK_SIZE] } as const;
  if (config.tieWordEmbeddings) {
    const weight = graph.alias(blocks, tied);
    matMulBlocks(graph, input, { name, weight, scales: scalesOf(tied), bits: 8, rows, columns });
    return;
  }
  builder.external(blocks.name, blocks.type, blocks.dims);
  builder.external(scalesOf(blocks.name), 'float32', [rows, columns / BLOCK_SIZE]);
  matMulBlocks(graph, input, { name, weight: blocks.name, bits: 8, rows, columns });
}

function normWeight(graph: LaneGraph, name: string, source: WeightSource): string {
  const weight = `${name}.weight`;
  graph.weight({ kind: 'vector', name: weight, sources: [{ ...source, name: weight }] });
  return graph.builder.external(weight, 'float32', [source.rows]);
}

/** The weight of a norm over the hidden channels, whose result linear layers take: the norm's name is the site's. */
function hiddenNormWeight(graph: LaneGraph, name: string): string {
  const width = graph.config.hiddenSize;
  if (name === FINAL_NORM && !headIsScaled(graph)) return normWeight(graph, name, { name, rows: width });
  graph.site({ name, width, value: name, run: width, repeat: 1 });
  return normWeight(graph, name, { name, rows: width, over: name });
}

function normalize(graph: LaneGraph, input: string, name: string, weight: string): string {
  return graph.builder.node('SimplifiedLayerNormalization', [input, weight], {
    name,
    attributes: { axis: -1, epsilon: { float: graph.config.rmsNormEps }, stash_type: 1 },
  });
}

/** RMSNorm over the hidden channels. */
export function rmsNorm(graph: LaneGraph, input: string, name: string): string {
  return normalize(graph, input, name, hiddenNormWeight(graph, name));
}

/** A value before the next block and what that block's result is added to. */
export interface Residual {
  readonly normed: string;
  readonly sum: string;
}

/** `sum = input + residual; normed = RMSNorm(sum)` in one node. */
export function addRmsNorm(graph: LaneGraph, input: string, residual: string, name: string): Residual {
  const sum = `${name}.sum`;
  const weight = hiddenNormWeight(graph, name);
  const normed = graph.builder.node('SkipSimplifiedLayerNormalization', [input, residual, weight], {
    name,
    domain: MICROSOFT,
    attributes: { epsilon: { float: graph.config.rmsNormEps } },
    outputs: [name, '', '', sum],
  });
  return { normed, sum };
}

export interface AttentionOptions {
  readonly layer: number;
  /** Bias on q, k and v. */
  readonly bias?: boolean;
  /** Bias on the output projection. */
  readonly outputBias?: boolean;
  /** RMSNorm of every head of q and k before the rotation. */
  readonly headNorm?: boolean;
}

/** Causal self-attention with rotary positions, one GroupQueryAttention per lane over the lane's own cache. */
export function attention(graph: LaneGraph, input: string, name: string, options: AttentionOptions): string {
  const { builder, config } = graph;
  const { numAttentionHeads, numKeyValueHeads, headDim, hiddenSize } = config;
  const { layer, bias = false, outputBias = false, headNorm = false } = options;
  const site = attendedSite(layer);
  const parts = [
    { name: `${name}.q_proj`, rows: numAttentionHeads * headDim },
    { name: `${name}.k_proj`, rows: numKeyValueHeads * headDim },
    { name: `${name}.v_proj`, rows: numKeyValueHeads * headDim, over: site },
  ];
  const qkvName = `${name}.qkv_proj`;
  const projected = linear(graph, input, { name: qkvName, parts, columns: hiddenSize, bias, site: input });
  const qkv = headNorm ? normHeads(graph, projected, name) : projected;
  const rotation = [laneNames.cosCache, laneNames.sinCache].map((table) =>
    toAttentionType(graph, table, `${name}.${table}`),
  );
  const lanes = splitLanes(graph, qkv, name);
  const cacheScales = (['key', 'value'] as const).map((part) => cacheScale(graph, layer, part));
  const quantization = {
    k_quant_type: 'PER_CHANNEL',
    v_quant_type: 'PER_CHANNEL',
    kv_cache_bit_width: 8,
  };
  const attended = lanes.map((lane, index) =>
    builder.node(
      'GroupQueryAttention',
      [
        lane,
        '',
        '',
        laneNames.past(index, layer, 'key'),
        laneNames.past(index, layer, 'value'),
        laneNames.seqlens(index),
        laneNames.totalLength(index),
        ...rotation,
        // without position_ids, attention_bias and head_sink
        ...(graph.kv === 'int8' ? ['', '', '', ...cacheScales] : []),
      ],
      {
        name: `${name}.lanes.${index}`,
        domain: MICROSOFT,
        attributes: {
          num_heads: numAttentionHeads,
          kv_num_heads: numKeyValueHeads,
          do_rotary: 1,
          ...(graph.kv === 'int8' && quantization),
        },
        outputs: [
          `${name}.lanes.${index}`,
          laneNames.present(index, layer, 'key'),
          laneNames.present(index, layer, 'value'),
        ],
      },
    ),
  );
  const packed = joinLanes(graph, attended, name);
  const output = { name: `${name}.o_proj`, rows: hiddenSize };
  const columns = numAttentionHeads * headDim;
  const repeat = numAttentionHeads / numKeyValueHeads; // query heads that read one head of values
  graph.site({ name: site, width: numKeyValueHeads * headDim, value: packed, run: headDim, repeat });
  return linear(graph, packed, { name: output.name, parts: [output], columns, bias: outputBias, site });
}

/** Declared for every format of the cache, so that one prepared model serves them all. */
function cacheScale({ builder, config, kv, weight }: LaneGraph, layer: number, part: 'key' | 'value'): string {
  const { numKeyValueHeads, headDim } = config;
  const name = cacheScalesOf(layer, part);
  weight({ kind: 'scales', name, length: numKeyValueHeads * headDim });
  return kv === 'int8' ? builder.external(name, 'float32', [1, numKeyValueHeads, 1, headDim]) : name;
}

function toAttentionType({ builder, attention }: LaneGraph, input: string, name: string): string {
  return attention === 'float32' ? input : builder.node('Cast', [input], { name, attributes: { to: ONNX_FLOAT16 } });
}

function fromAttentionType({ builder, attention }: LaneGraph, input: string, name: string): string {
  return attention === 'float32' ? input : builder.node('Cast', [input], { name, attributes: { to: ONNX_FLOAT } });
}

/**
 * Packed qkv `[1, T, width]` -> one `[1, Ti, width]` per lane. Lanes may not be empty, so spare ones get a row of zeros each, which
 * is joined here and dropped again by `joinLanes`: the linear layers never see it.
 */
function splitLanes(graph: LaneGraph, packed: string, name: string): readonly string[] {
  const { builder, config, numLanes, attention } = graph;
  if (numLanes === 1) return [toAttentionType(graph, packed, `${name}.qkv_cast`)];
  const width = qkvWidth(config);
  const padded = builder.node('Concat', [packed, laneNames.spareRows], {
    name: `${name}.padded`,
    attributes: { axis: 1 },
  });
  builder.value(padded, 'float32', [1, 'T + S', width]);
  const whole = toAttentionType(graph, padded, `${name}.qkv_cast`);
  const outputs = Array.from({ length: numLanes }, (_, lane) => `${name}.lanes.${lane}.qkv`);
  builder.node('Split', [whole, laneNames.laneLengths], { name: `${name}.lanes`, attributes: { axis: 1 }, outputs });
  for (const [lane, output] of outputs.entries()) builder.value(output, attention, [1, `T.${lane}`, width]);
  return outputs;
}

function joinLanes(graph: LaneGraph, lanes: readonly string[], name: string): string {
  const { builder, config, attention } = graph;
  const [only, ...others] = lanes;
  if (only !== undefined && others.length === 0) return fromAttentionType(graph, only, `${name}.attended`);
  const width = config.numAttentionHeads * config.headDim;
  const padded = builder.node('Concat', lanes, { name: `${name}.joined`, attributes: { axis: 1 } });
  builder.value(padded, attention, [1, 'T + S', width]);
  const packed = builder.node('Split', [padded, laneNames.packedLengths], {
    name: `${name}.packed`,
    attributes: { axis: 1 },
    outputs: [`${name}.packed`, `${name}.spare`],
  });
  builder.value(packed, attention, [1, 'T', width]);
  return fromAttentionType(graph, packed, `${name}.attended`);
}

/** q and k of packed qkv as `[1, T, heads, headDim]`, normalized per head and packed again. */
function normHeads(graph: LaneGraph, qkv: string, name: string): string {
  const { builder, config } = graph;
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const heads = [numAttentionHeads, numKeyValueHeads, numKeyValueHeads];
  const sizes = builder.int64Constant(
    `${name}.qkv_sizes`,
    heads.map((count) => count * headDim),
  );
  const split = ['q', 'k', 'v'].map((part) => `${name}.${part}`);
  builder.node('Split', [qkv, sizes], { name: `${name}.qkv_split`, attributes: { axis: 2 }, outputs: split });
  const [query, key, value] = split as [string, string, string];
  const normed = (part: string, norm: string, count: number): string => {
    const apart = builder.int64Constant(`${part}.heads_shape`, [1, -1, count, headDim]);
    const together = builder.int64Constant(`${part}.packed_shape`, [1, -1, count * headDim]);
    const perHead = builder.node('Reshape', [part, apart], { name: `${part}.heads` });
    const weight = normWeight(graph, norm, { name: norm, rows: headDim });
    const result = normalize(graph, perHead, norm, weight);
    return builder.node('Reshape', [result, together], { name: `${part}.packed` });
  };
  return builder.node(
    'Concat',
    [normed(query, `${name}.q_norm`, numAttentionHeads), normed(key, `${name}.k_norm`, numKeyValueHeads), value],
    { name: `${name}.qkv_normed`, attributes: { axis: 2 } },
  );
}

/** `down(silu(gate(x)) * up(x))` with gate and up in one product. */
export function gatedMlp(graph: LaneGraph, input: string, name: string): string {
  const { builder, config } = graph;
  const { hiddenSize, intermediateSize } = config;
  const gate = { name: `${name}.gate_proj`, rows: intermediateSize };
  const site = `${name}.gated`;
  const up = { name: `${name}.up_proj`, rows: intermediateSize, over: site };
  const gateUpName = `${name}.gate_up_proj`;
  const gateUp = linear(graph, input, { name: gateUpName, parts: [gate, up], columns: hiddenSize, site: input });
  builder.node('Split', [gateUp], {
    name: `${name}.gate_up_split`,
    attributes: { axis: 2, num_outputs: 2 },
    outputs: [gate.name, up.name],
  });
  // x * sigmoid(alpha * x) with alpha 1 is SiLU
  const activated = builder.node('QuickGelu', [gate.name], {
    name: `${name}.act_fn`,
    domain: MICROSOFT,
    attributes: { alpha: { float: 1 } },
  });
  const gated = builder.node('Mul', [activated, up.name], { name: site });
  graph.site({ name: site, width: intermediateSize, value: gated, run: intermediateSize, repeat: 1 });
  const down = { name: `${name}.down_proj`, rows: hiddenSize };
  return linear(graph, gated, { name: down.name, parts: [down], columns: intermediateSize, site });
}

/** Rows `logit_rows` of the packed tokens: `[1, T, hidden]` -> `[1, R, hidden]`. */
export function selectRows({ builder }: LaneGraph, input: string, name: string): string {
  return builder.node('Gather', [input, laneNames.logitRows], { name, attributes: { axis: 1 } });
}
