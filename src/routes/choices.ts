/** Several generations of one request side by side, as one stream; the first failure ends them all. */
import type {
  Engine,
  FinishReason,
  GenerateRequest,
  GenerationEvent,
  Timings,
  TokenLogprob,
  Usage,
} from '../engine/engine.ts';
import { eventStream } from '../stv/event-stream.ts';

export interface ChoiceEvent {
  readonly choice: number;
  readonly event: GenerationEvent;
}

export async function* generateChoices(
  engine: Engine,
  requests: readonly GenerateRequest[],
  signal: AbortSignal,
): AsyncGenerator<ChoiceEvent> {
  yield* eventStream<ChoiceEvent>(async (emit, streamSignal) => {
    const failed = new AbortController();
    const each = AbortSignal.any([streamSignal, failed.signal]);
    const results = await Promise.allSettled(
      requests.map(async (request, choice) => {
        try {
          for await (const event of engine.generate(request, { signal: each })) {
            await emit({ choice, event });
          }
        } catch (thrown) {
          // the others end as `cancelled`; what counts is the failure that came first
          if (!failed.signal.aborted) failed.abort(thrown);
          throw thrown;
        }
      }),
    );
    if (failed.signal.aborted) throw failed.signal.reason;
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }, signal);
}

/** One finished generation. */
export interface Choice {
  readonly text: string;
  readonly logprobs: readonly TokenLogprob[];
  readonly promptLogprobs: readonly (TokenLogprob | null)[];
  readonly endToken: TokenLogprob | undefined;
  readonly finishReason: FinishReason;
  readonly usage: Usage;
  readonly timings: Timings;
  readonly model: string;
}

/** The fold of a stream of choices, in order. */
export async function collectChoices(events: AsyncIterable<ChoiceEvent>, count: number): Promise<Choice[]> {
  const texts: string[] = Array.from({ length: count }, () => '');
  const logprobs: TokenLogprob[][] = Array.from({ length: count }, () => []);
  const choices: Choice[] = [];
  for await (const { choice, event } of events) {
    if (event.type === 'delta') {
      texts[choice] += event.text;
      logprobs[choice]?.push(...(event.logprobs ?? []));
    } else if (event.type === 'end') {
      choices[choice] = {
        text: texts[choice] ?? '',
        logprobs: logprobs[choice] ?? [],
        promptLogprobs: event.promptLogprobs ?? [],
        endToken: event.endToken,
        finishReason: event.finishReason,
        usage: event.usage,
        timings: event.timings,
        model: event.model,
      };
    }
  }
  return choices;
}

/** The prompt is counted once for the choices that share it, as OpenAI does. `n` choices of one prompt follow one another. */
export function requestUsage(usages: readonly Usage[], n: number): Usage[] {
  return usages.map((usage, index) => (index % n === 0 ? usage : { ...usage, promptTokens: 0, cachedTokens: 0 }));
}
