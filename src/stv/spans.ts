/** What the loop tells about its own course to whoever traces it: nested spans with numbers and names, never a text of a user. */

export type SpanName = 'solve' | 'refine' | 'round' | 'generate' | 'verify' | 'vote';

/** Undefined ones are left out. */
export type SpanAttributes = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Span {
  /** Begins a part of this one. */
  child(name: SpanName, attributes?: SpanAttributes): Span;
  /** Called once. `error` is why the part could not be finished; an abort is one too. */
  end(attributes?: SpanAttributes, error?: unknown): void;
}

/** Tracing is off. */
export const noSpan: Span = { child: () => noSpan, end: () => {} };

/** The token counts of one role as attributes, by the names of the GenAI semantic conventions where these have one. */
export function usageAttributes(usage: {
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly promptTokensDetails: { readonly cachedTokens: number };
}): SpanAttributes {
  return {
    'gen_ai.usage.input_tokens': usage.promptTokens,
    'gen_ai.usage.output_tokens': usage.completionTokens,
    'stv.usage.cached_tokens': usage.promptTokensDetails.cachedTokens,
  };
}

/** Runs `work` within a span, which ends with what `describe` makes of the result, or with the error. */
export async function withSpan<T>(
  span: Span,
  work: () => Promise<T>,
  describe: (result: T) => SpanAttributes,
): Promise<T> {
  let result: T;
  try {
    result = await work();
  } catch (error) {
    span.end({}, error);
    throw error;
  }
  span.end(describe(result));
  return result;
}
