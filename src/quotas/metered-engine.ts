/** The engine as one API key has it: its share is named, what it uses is charged, and nothing begins when its tokens are used up. */
import type { Engine, GenerationEvent, ScoreRequest } from '../engine/engine.ts';
import { type ErrorCode, toStvError } from '../errors.ts';
import type { QuotaLedger } from './quota-ledger.ts';

/** With these a request ends before the engine has taken it: they cost nothing. */
const refusals: ReadonlySet<ErrorCode> = new Set([
  'invalid_value',
  'unsupported_parameter',
  'context_length_exceeded',
  'model_not_found',
  'queue_full',
  'quota_exceeded',
  'not_ready',
  'draining',
  'request_quarantined',
  'remote_unavailable',
]);

export function meterEngine(engine: Engine, key: string, ledger: QuotaLedger): Engine {
  return {
    generate: (request, options) => metered(() => engine.generate({ ...request, shareKey: key }, options), key, ledger),
    async score(request, options) {
      ledger.checkTokens(key);
      try {
        const result = await engine.score({ ...request, shareKey: key }, options);
        ledger.spend(key, result.usage.promptTokens + result.usage.completionTokens);
        return result;
      } catch (thrown) {
        // not awaited: counting takes a moment, and whoever cancelled waits for nothing
        if (!refusals.has(toStvError(thrown).code)) void chargePrompt(engine, request, key, ledger);
        throw thrown;
      }
    },
    models: () => engine.models(),
    tokenize: (model, text) => engine.tokenize(model, text),
    detokenize: (model, tokens) => engine.detokenize(model, tokens),
    countTokens: (model, prompt, options) => engine.countTokens(model, prompt, options),
    checkRoom(model) {
      ledger.checkTokens(key);
      engine.checkRoom(model, key);
    },
    status: () => engine.status(),
    close: () => engine.close(),
  };
}

/** Charges what the engine reports at the end, or what was seen of a generation that was left or failed. */
async function* metered(
  generate: () => ReturnType<Engine['generate']>,
  key: string,
  ledger: QuotaLedger,
): AsyncGenerator<GenerationEvent> {
  ledger.checkTokens(key);
  let tokens = 0;
  try {
    for await (const event of generate()) {
      if (event.type === 'start') tokens += event.promptTokens;
      else if (event.type === 'delta') tokens += event.tokens.length;
      else tokens = event.usage.promptTokens + event.usage.completionTokens;
      yield event;
    }
  } finally {
    ledger.spend(key, tokens);
  }
}

/** A score that failed tells no usage: its prompt stands for it, and nothing where the engine cannot count any more. */
async function chargePrompt(
  engine: Engine,
  { model, prompt }: ScoreRequest,
  key: string,
  ledger: QuotaLedger,
): Promise<void> {
  ledger.spend(key, await engine.countTokens(model, prompt).catch(() => 0));
}

/** Counts a stored run, which outlives its request, among what its key has going on; others are counted by their request. */
export async function* countRun<T>(
  events: AsyncIterable<T>,
  run: { readonly outlastsEngine?: boolean | undefined },
  key: string,
  ledger: QuotaLedger,
): AsyncGenerator<T> {
  const leave = run.outlastsEngine === true ? ledger.enter(key) : undefined;
  try {
    yield* events;
  } finally {
    leave?.();
  }
}
