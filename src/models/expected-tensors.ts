/** Which tensors a checkpoint of a configuration must hold, and the check that it does. */
import type { Checkpoint } from './checkpoint.ts';
import { checkpointInvalid } from './checkpoint-file.ts';
import type { ModelConfig } from './model-config.ts';

/** Name -> shape of every tensor that the graph of this configuration reads. With tied embeddings there is no `lm_head`. */
export function expectedTensors(config: ModelConfig): Map<string, readonly number[]> {
  const { hiddenSize, intermediateSize, headDim, vocabSize } = config;
  const queryRows = config.numAttentionHeads * headDim;
  const keyValueRows = config.numKeyValueHeads * headDim;
  const expected = new Map<string, readonly number[]>();
  expected.set('model.embed_tokens.weight', [vocabSize, hiddenSize]);
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const add = (part: string, shape: readonly number[]): void => {
      expected.set(`model.layers.${layer}.${part}`, shape);
    };
    add('input_layernorm.weight', [hiddenSize]);
    add('self_attn.q_proj.weight', [queryRows, hiddenSize]);
    add('self_attn.k_proj.weight', [keyValueRows, hiddenSize]);
    add('self_attn.v_proj.weight', [keyValueRows, hiddenSize]);
    add('self_attn.o_proj.weight', [hiddenSize, queryRows]);
    if (config.attentionBias) {
      add('self_attn.q_proj.bias', [queryRows]);
      add('self_attn.k_proj.bias', [keyValueRows]);
      add('self_attn.v_proj.bias', [keyValueRows]);
    }
    if (config.attentionOutputBias) add('self_attn.o_proj.bias', [hiddenSize]);
    if (config.modelType === 'qwen3') {
      add('self_attn.q_norm.weight', [headDim]);
      add('self_attn.k_norm.weight', [headDim]);
    }
    add('post_attention_layernorm.weight', [hiddenSize]);
    add('mlp.gate_proj.weight', [intermediateSize, hiddenSize]);
    add('mlp.up_proj.weight', [intermediateSize, hiddenSize]);
    add('mlp.down_proj.weight', [hiddenSize, intermediateSize]);
  }
  expected.set('model.norm.weight', [hiddenSize]);
  if (!config.tieWordEmbeddings) expected.set('lm_head.weight', [vocabSize, hiddenSize]);
  return expected;
}

/**
 * Every expected tensor is there with its shape, and no tensor of a layer is there that the graph would silently leave out.
 * Throws StvError `checkpoint_invalid` that names the file and the tensor. Reads headers only.
 */
export function validateCheckpoint(checkpoint: Checkpoint): void {
  const expected = expectedTensors(checkpoint.config);
  for (const [name, shape] of expected) {
    const info = checkpoint.tensors.get(name);
    if (info === undefined) throw checkpointInvalid(checkpoint.path, `tensor "${name}" is missing.`);
    if (info.shape.length !== shape.length || info.shape.some((size, axis) => size !== shape[axis])) {
      throw checkpointInvalid(
        checkpoint.path,
        `tensor "${name}" has shape [${info.shape}], but its configuration asks for [${shape}].`,
      );
    }
  }
  for (const name of checkpoint.tensors.keys()) {
    if (expected.has(name) || !/^(model\.layers|blk)\./.test(name) || isBuffer(name)) continue;
    throw checkpointInvalid(
      checkpoint.path,
      `tensor "${name}" has no place in a ${checkpoint.config.modelType} model of ${checkpoint.config.numHiddenLayers} layers.`,
    );
  }
}

/** Old checkpoints carry the rotary frequencies, which follow from the configuration. */
function isBuffer(name: string): boolean {
  return name.endsWith('.rotary_emb.inv_freq');
}
