/** Qwen2 and Qwen2.5: a bias on q, k and v, none on the output projection. */
import { decoder } from './decoder.ts';
import type { LaneGraph } from './lane-graph.ts';
import { attention, gatedMlp } from './layers.ts';

export function qwen2(graph: LaneGraph): void {
  decoder(graph, {
    attention: (input, name, layer) => attention(graph, input, name, { layer, bias: true }),
    mlp: (input, name) => gatedMlp(graph, input, name),
  });
}
