/** A GenerateRequest in the fields of each dialect. Pure; what a dialect cannot say is refused or left out as the table tells. */
import { StvError } from '../../errors.ts';
import type { GenerateRequest, Prompt, SamplingParams } from '../engine.ts';
import { breakMarks } from './inert-text.ts';
import type { RemoteProfile } from './probe.ts';
import { vllmMessages } from './remote-tokenizer.ts';

export interface RemoteCall {
  readonly route: { readonly api: '/chat/completions' | '/completions' };
  readonly body: Readonly<Record<string, unknown>>;
  /** Text that the server may write again at the head of its answer. */
  readonly echoes: string;
}

/** Throws StvError `unsupported_parameter` for what no remote can do. @param maxTokens at least 1 */
export function generateCall(
  request: GenerateRequest,
  profile: RemoteProfile,
  { maxTokens, tokens }: { readonly maxTokens: number; readonly tokens: Int32Array | undefined },
): RemoteCall {
  refuse(request, profile);
  const call = promptFields(request.prompt, profile, tokens);
  const isChat = request.prompt.kind === 'chat' && tokens === undefined;
  return {
    ...call,
    body: {
      ...call.body,
      model: profile.model,
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: maxTokens,
      ...samplingFields(request.sampling, profile),
      ...(request.stop.length === 0 ? {} : { stop: request.stop }),
      ...(request.includeStop === true && profile.dialect === 'vllm' ? { include_stop_str_in_output: true } : {}),
      ...(request.ignoreEos === true ? { ignore_eos: true } : {}),
      ...(profile.dialect === 'vllm' ? { return_token_ids: true } : {}),
      ...logprobFields(request.logprobs, isChat, profile),
    },
  };
}

/** One token, greedy, with the `top` most likely alternatives: the distribution behind the prompt. Not a stream. */
export function readingBody(
  profile: RemoteProfile,
  tokens: Int32Array,
  top: number,
): Readonly<Record<string, unknown>> {
  return {
    model: profile.model,
    prompt: [...tokens],
    max_tokens: 1,
    temperature: 0,
    logprobs: top,
    ...(profile.dialect === 'vllm' ? { return_tokens_as_token_ids: true } : { n_probs: top }),
  };
}

/** A short greedy answer, with log-probabilities where `top` is given. Not a stream. */
export function voteCall(
  prompt: Prompt,
  profile: RemoteProfile,
  { maxTokens, top }: { readonly maxTokens: number; readonly top: number | undefined },
): RemoteCall {
  const call = promptFields(prompt, profile, undefined);
  const isChat = prompt.kind === 'chat';
  return {
    ...call,
    body: {
      ...call.body,
      model: profile.model,
      max_tokens: maxTokens,
      temperature: 0,
      ...logprobFields(top, isChat, profile),
    },
  };
}

function promptFields(prompt: Prompt, profile: RemoteProfile, tokens: Int32Array | undefined): RemoteCall {
  const completions = (value: unknown): RemoteCall => ({
    route: { api: '/completions' },
    body: { prompt: value },
    echoes: '',
  });
  if (tokens !== undefined) return completions([...tokens]);
  if (prompt.kind === 'tokens') return completions(prompt.tokens);
  if (prompt.kind === 'text') return completions(breakMarks(prompt.text));
  const prefix = prompt.assistantPrefix ?? '';
  const { messages, ...continuation } = vllmMessages(prompt);
  return {
    route: { api: '/chat/completions' },
    body: { messages, ...(profile.dialect === 'vllm' ? continuation : {}), ...profile.templateFields },
    echoes: prefix,
  };
}

function samplingFields(params: SamplingParams, { dialect }: RemoteProfile): Readonly<Record<string, unknown>> {
  const common = {
    temperature: params.temperature,
    top_p: params.topP,
    seed: params.seed,
    presence_penalty: params.presencePenalty,
    frequency_penalty: params.frequencyPenalty,
    ...(params.logitBias === undefined || params.logitBias.size === 0
      ? {}
      : { logit_bias: Object.fromEntries(params.logitBias) }),
  };
  switch (dialect) {
    case 'vllm':
      return {
        ...common,
        // older versions know only -1 for off
        top_k: params.topK === 0 ? -1 : params.topK,
        min_p: params.minP,
        repetition_penalty: params.repetitionPenalty,
      };
    case 'llama.cpp':
      // all of them, also those that are off: the server's own defaults filter
      return { ...common, top_k: params.topK, min_p: params.minP, repeat_penalty: params.repetitionPenalty };
    case 'openai':
      return common;
  }
}

function logprobFields(
  wanted: number | undefined,
  isChat: boolean,
  { dialect }: RemoteProfile,
): Readonly<Record<string, unknown>> {
  if (wanted === undefined) return {};
  // llama-server takes no alternatives for no log-probabilities
  const top = dialect === 'llama.cpp' ? Math.max(1, wanted) : wanted;
  return isChat ? { logprobs: true, top_logprobs: top } : { logprobs: top };
}

function refuse(request: GenerateRequest, { dialect }: RemoteProfile): void {
  const field =
    request.promptLogprobs !== undefined
      ? 'echo'
      : request.maxTokens < 1
        ? 'max_tokens'
        : request.includeStop === true && request.stop.length > 0 && dialect !== 'vllm'
          ? 'stop'
          : undefined;
  if (field === undefined) return;
  throw new StvError(
    'unsupported_parameter',
    `The remote server behind this model cannot do what \`${field}\` asks for.`,
    {
      param: field,
    },
  );
}
