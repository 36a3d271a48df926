/** The counts of an answer under the names that the Responses route gives them. */
import type { WireUsage } from './schemas.ts';
import type { ResponseUsage } from './schemas-responses.ts';

export function responseUsage(usage: WireUsage): ResponseUsage {
  return {
    input_tokens: usage.prompt_tokens,
    output_tokens: usage.completion_tokens,
    total_tokens: usage.total_tokens,
    input_tokens_details: { cached_tokens: usage.prompt_tokens_details.cached_tokens },
    output_tokens_details: { reasoning_tokens: usage.completion_tokens_details.reasoning_tokens },
  };
}
