/** The order of a pre-norm decoder, which the families share: embedding, layers of attention and MLP, LM head. */
import type { LaneGraph } from './lane-graph.ts';
import { addRmsNorm, embedding, FINAL_NORM, lmHead, rmsNorm, selectRows } from './layers.ts';

export interface DecoderLayers {
  /** `[1, T, hidden]` -> the same; `name` is the module's. */
  attention(input: string, name: string, layer: number): string;
  mlp(input: string, name: string): string;
}

/** Writes the whole graph from `input_ids` to `logits`. */
export function decoder(graph: LaneGraph, layers: DecoderLayers): void {
  const last = graph.config.numHiddenLayers - 1;
  const embeddingName = 'model.embed_tokens';
  let sum = embedding(graph, embeddingName);
  let normed = rmsNorm(graph, sum, 'model.layers.0.input_layernorm');
  for (let layer = 0; layer <= last; layer++) {
    const name = `model.layers.${layer}`;
    let attended = layers.attention(normed, `${name}.self_attn`, layer);
    if (layer === last) {
      // after the last attention no token looks at another: only rows whose logits are wanted go on
      attended = selectRows(graph, attended, 'selected.attended');
      sum = selectRows(graph, sum, 'selected.residual');
    }
    ({ normed, sum } = addRmsNorm(graph, attended, sum, `${name}.post_attention_layernorm`));
    const next = layer === last ? FINAL_NORM : `model.layers.${layer + 1}.input_layernorm`;
    ({ normed, sum } = addRmsNorm(graph, layers.mlp(normed, `${name}.mlp`), sum, next));
  }
  lmHead(graph, normed, embeddingName);
}
