/** From the wire's sampling fields to those of the loop: snake_case ends here. */
import type { SamplingOptions } from '../stv/loop-deps.ts';

export interface WireSampling {
  readonly temperature?: number | undefined;
  readonly top_p?: number | undefined;
  readonly top_k?: number | undefined;
  readonly min_p?: number | undefined;
  readonly max_tokens?: number | undefined;
}

export function samplingOf(wire: WireSampling): SamplingOptions {
  return {
    temperature: wire.temperature,
    topP: wire.top_p,
    topK: wire.top_k,
    minP: wire.min_p,
    maxTokens: wire.max_tokens,
  };
}
