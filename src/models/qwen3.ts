/** Qwen3: every head of q and k is normalized before the rotation; biases only if the config says so. */
import { decoder } from './decoder.ts';
import type { LaneGraph } from './lane-graph.ts';
import { attention, gatedMlp } from './layers.ts';

export function qwen3(graph: LaneGraph): void {
  const { config } = graph;
  decoder(graph, {
    attention: (input, name, layer) =>
      attention(graph, input, name, {
        layer,
        bias: config.attentionBias,
        outputBias: config.attentionOutputBias,
        headNorm: true,
      }),
    mlp: (input, name) => gatedMlp(graph, input, name),
  });
}
