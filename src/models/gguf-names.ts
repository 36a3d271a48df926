/** GGUF's tensor names in Hugging Face's words, and the row order in which `llama` files store q and k. */

const TOP_LEVEL: Readonly<Record<string, string>> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

const IN_LAYER: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

/** Undefined for tensors that have no counterpart, such as `rope_freqs.weight`. */
export function huggingFaceName(name: string): string | undefined {
  if (Object.hasOwn(TOP_LEVEL, name)) return TOP_LEVEL[name];
  const match = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name);
  if (match === null) return undefined;
  const [, layer, part = '', kind] = match;
  if (!Object.hasOwn(IN_LAYER, part)) return undefined;
  return `model.layers.${Number(layer)}.${IN_LAYER[part]}.${kind}`;
}

/**
 * Rows of q and k in a `llama` GGUF are interleaved within each head, because llama.cpp rotates neighbouring pairs
 * (2i, 2i + 1) where Hugging Face rotates halves (i, i + headDim / 2). Returns the matrix in Hugging Face's order;
 * `rowBytes` is the stored size of a row, quantized or not.
 */
export function undoHeadInterleaving(
  bytes: Uint8Array,
  { headDim, rowBytes }: { readonly headDim: number; readonly rowBytes: number },
): Uint8Array<ArrayBuffer> {
  const output = new Uint8Array(bytes.length);
  const halfDim = headDim / 2;
  const numRows = bytes.length / rowBytes;
  for (let row = 0; row < numRows; row++) {
    const inHead = row % headDim;
    const stored = row - inHead + 2 * (inHead % halfDim) + Math.floor(inHead / halfDim);
    output.set(bytes.subarray(stored * rowBytes, (stored + 1) * rowBytes), row * rowBytes);
  }
  return output;
}
