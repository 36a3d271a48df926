/** `POST /v1/completions`: raw text continued, without a chat template; `echo` and `logprobs` as evaluation harnesses need them. */
import type { Engine, GenerateRequest, Prompt, TokenLogprob, Usage } from '../engine/engine.ts';
import { type Choice, type ChoiceEvent, collectChoices, generateChoices, requestUsage } from './choices.ts';
import { blameTokens } from './error-field.ts';
import { serviceFor } from './limits.ts';
import {
  checkProduct,
  completionPrompts,
  dropNulls,
  findModel,
  refuseUnsupported,
  samplingParams,
  seedOf,
  stopStrings,
  unsupportedParameter,
} from './openai-params.ts';
import { streamOpenAi } from './openai-stream.ts';
import { completionLogprobs, fingerprint, wireUsage } from './openai-wire.ts';
import { drawSeed, makeId } from './request-id.ts';
import type { App, RouteDeps } from './route-deps.ts';
import { answerOrStream, inferenceErrors } from './schemas.ts';
import { Completion, type CompletionBody, CompletionChunk, completionBody } from './schemas-openai.ts';
import { clientSignal } from './sse.ts';

/** OpenAI's own default for this route. */
const defaultMaxTokens = 16;

export function registerCompletions(app: App, deps: RouteDeps): void {
  app.post(
    '/v1/completions',
    {
      config: { scope: 'infer' },
      preValidation: async (request) => dropNulls(request.body),
      schema: {
        operationId: 'createCompletion',
        tags: ['openai'],
        summary: 'Continue a text',
        body: completionBody(deps.config),
        response: {
          200: answerOrStream(Completion, CompletionChunk, 'The completion, or its chunks'),
          ...inferenceErrors,
        },
      },
    },
    async (request, reply) => {
      const { engine } = serviceFor(deps, request);
      const body: CompletionBody = request.body;
      refuseUnsupported(body);
      if (body.model === 'solve') {
        throw unsupportedParameter('model', 'The model `solve` needs a problem: use /v1/chat/completions or /solve.');
      }
      const model = findModel(engine, body.model);
      const prompts = completionPrompts(body.prompt);
      const n = body.n ?? 1;
      checkProduct(prompts.length, n, deps.config.maxSequences);
      const signal = clientSignal(reply);
      const head = {
        id: makeId('cmpl'),
        object: 'text_completion',
        created: Math.floor(Date.now() / 1000),
        model: body.model,
        system_fingerprint: fingerprint(model.digest),
      };
      const echoes =
        body.echo === true ? await Promise.all(prompts.map((prompt) => textOf(engine, model.name, prompt))) : [];
      const requests = prompts.flatMap((prompt) => completionRequests(body, head.id, model.name, prompt, n));
      const events = generateChoices(engine, requests, signal);
      const echoOf = (choice: number): string => echoes[Math.floor(choice / n)] ?? '';
      if (body.stream === true) {
        return streamOpenAi(request, reply, completionChunks(events, head, body, n, echoOf), deps, signal);
      }
      const choices = await collectChoices(events, requests.length);
      return {
        ...head,
        choices: choices.map((choice, index) => ({
          index,
          text: echoOf(index) + choice.text,
          logprobs: body.logprobs === undefined ? null : wholeLogprobs(choice, echoOf(index), body.echo === true),
          finish_reason: choice.finishReason,
        })),
        usage: wireUsage(
          requestUsage(
            choices.map((choice) => choice.usage),
            n,
          ),
        ),
      };
    },
  );
}

/** The text that `echo` repeats. */
async function textOf(engine: Engine, model: string, prompt: Prompt): Promise<string> {
  if (prompt.kind === 'tokens') return engine.detokenize(model, prompt.tokens).catch(blameTokens('prompt'));
  return prompt.kind === 'text' ? prompt.text : '';
}

function completionRequests(
  body: CompletionBody,
  id: string,
  model: string,
  prompt: Prompt,
  n: number,
): GenerateRequest[] {
  const first = seedOf(body.seed, 0, drawSeed);
  return Array.from({ length: n }, (_, choice) => ({
    id: `${id}.${choice}.${makeId('req')}`,
    model,
    prompt,
    sampling: samplingParams(body, seedOf(first, choice, drawSeed)),
    maxTokens: body.max_tokens ?? defaultMaxTokens,
    stop: stopStrings(body.stop),
    ...(body.ignore_eos === true ? { ignoreEos: true } : {}),
    ...(body.logprobs === undefined ? {} : { logprobs: body.logprobs }),
    ...(body.logprobs !== undefined && body.echo === true ? { promptLogprobs: body.logprobs } : {}),
    priority: 'interactive',
  }));
}

function withTexts(tokens: readonly TokenLogprob[]) {
  return tokens.map((token) => ({ text: token.text, logprob: token }));
}

/** Harnesses ask for one token and count from the end of the list, so a token that ended the text must stand there too. */
function withEnd(endToken: TokenLogprob | undefined) {
  return endToken === undefined ? [] : [{ text: '', logprob: endToken }];
}

/** Log-probabilities of the echoed prompt, if any, and of the generated text. */
function wholeLogprobs(choice: Choice, echo: string, withPrompt: boolean) {
  const generated = [...withTexts(choice.logprobs), ...withEnd(choice.endToken)];
  if (!withPrompt) return completionLogprobs(generated, 0);
  return completionLogprobs([...promptTokens(choice.promptLogprobs, echo), ...generated], 0);
}

/** The first prompt token has no probability, so its text is what the others leave of the echo. */
function promptTokens(logprobs: readonly (TokenLogprob | null)[], echo: string) {
  const rest = logprobs.reduce((length, token) => length + (token?.text.length ?? 0), 0);
  return logprobs.map((token) => ({
    text: token?.text ?? echo.slice(0, Math.max(0, echo.length - rest)),
    logprob: token,
  }));
}

async function* completionChunks(
  events: AsyncIterable<ChoiceEvent>,
  head: object,
  body: CompletionBody,
  n: number,
  echoOf: (choice: number) => string,
): AsyncGenerator<object> {
  const withUsage = body.stream_options?.include_usage === true;
  const withPrompt = body.echo === true && body.logprobs !== undefined;
  const usages: Usage[] = [];
  const lengths: number[] = [];
  const pending: ChoiceEvent[][] = [];
  const chunk = (index: number, text: string, logprobs: object | null, finishReason: string | null): object => {
    lengths[index] = (lengths[index] ?? 0) + text.length;
    return {
      ...head,
      choices: [{ index, text, logprobs, finish_reason: finishReason }],
      ...(withUsage ? { usage: null } : {}),
    };
  };
  const render = ({ choice, event }: ChoiceEvent): object[] => {
    if (event.type === 'start') {
      return body.echo === true && !withPrompt ? [chunk(choice, echoOf(choice), null, null)] : [];
    }
    if (event.type === 'delta') {
      const logprobs =
        body.logprobs === undefined || event.logprobs === undefined
          ? null
          : completionLogprobs(withTexts(event.logprobs), lengths[choice] ?? 0);
      return event.text === '' && logprobs === null ? [] : [chunk(choice, event.text, logprobs, null)];
    }
    usages[choice] = event.usage;
    const end = withEnd(event.endToken);
    const logprobs = end.length === 0 ? null : completionLogprobs(end, lengths[choice] ?? 0);
    return [chunk(choice, '', logprobs, event.finishReason)];
  };
  for await (const item of events) {
    // The prompt's probabilities are known with the end of the generation only, and the echo must come first.
    if (!withPrompt) yield* render(item);
    else if (item.event.type !== 'end') {
      const held = pending[item.choice] ?? [];
      pending[item.choice] = held;
      held.push(item);
    } else {
      const echo = echoOf(item.choice);
      const prompt = completionLogprobs(promptTokens(item.event.promptLogprobs ?? [], echo), 0);
      yield chunk(item.choice, echo, prompt, null);
      for (const held of pending[item.choice] ?? []) yield* render(held);
      yield* render(item);
    }
  }
  if (withUsage) yield { ...head, choices: [], usage: wireUsage(requestUsage(usages, n)) };
}
