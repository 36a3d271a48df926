/** Llama and its kin (SmolLM2, Llama 3.x, Mistral): a bias on all four projections of attention or on none. */
import { decoder } from './decoder.ts';
import type { LaneGraph } from './lane-graph.ts';
import { attention, gatedMlp } from './layers.ts';

export function llama(graph: LaneGraph): void {
  const { config } = graph;
  decoder(graph, {
    attention: (input, name, layer) =>
      attention(graph, input, name, { layer, bias: config.attentionBias, outputBias: config.attentionOutputBias }),
    mlp: (input, name) => gatedMlp(graph, input, name),
  });
}
