/** A LocalEngine over fake models and byte tokens, with the engine host in place: everything but processes and ONNX Runtime. */
import type { ChatMessage, Engine, GenerateRequest, GenerationEvent } from '../../src/engine/engine.ts';
import type { HostEvents, HostLink, SpawnHost } from '../../src/engine/host-link.ts';
import { HostLoop } from '../../src/engine/host-loop.ts';
import { type LocalEngine, type LocalEngineOptions, startLocalEngine } from '../../src/engine/local-engine.ts';
import type { FromHost, ToHost } from '../../src/engine/messages.ts';
import { DEFAULT_SAMPLING } from '../../src/engine/sampling-params.ts';
import type { TextSide } from '../../src/engine/text-encoding.ts';
import { createInlineTextService } from '../../src/engine/text-service.ts';
import {
  BYTE_VOCAB_SIZE,
  bytesOfToken,
  decodeBytes,
  EOS,
  encodeByteChat,
  encodeBytes,
  ROLE_END,
} from './byte-tokenizer.ts';
import { FakeCausalLM, type FakeCausalLMOptions } from './fake-causal-lm.ts';

export const byteTextSide: TextSide = {
  vocabSize: BYTE_VOCAB_SIZE,
  stopTokenIds: [EOS, ROLE_END],
  addsBos: false,
  encodeText: (text) => encodeBytes(text),
  encodeChat: (messages, options) => encodeByteChat(messages as readonly ChatMessage[], options?.assistantPrefix),
  tokenBytes: bytesOfToken,
  isSpecial: (id) => id >= 256,
  decode: (ids) => decodeBytes(ids),
};

/** A host whose process is only pretended: `kill` silences it, as SIGKILL does. */
export class InPlaceHost implements HostLink {
  readonly pid = undefined;
  readonly models: FakeCausalLM[] = [];
  readonly received: ToHost[] = [];
  /** While true the host reads nothing and says nothing. */
  isFrozen = false;
  #isDead = false;
  readonly #events: HostEvents;
  readonly #loop: HostLoop;

  constructor(events: HostEvents, model: FakeCausalLMOptions) {
    this.#events = events;
    // a step takes as long on a busy machine: how much is guessed follows from it
    let nowMs = 0;
    this.#loop = new HostLoop({
      now: () => nowMs++,
      openModel: ({ numSlots, maxLength, maxLanes, maxBatchedTokens }) => {
        const opened = new FakeCausalLM({
          numSlots,
          maxLength,
          maxLanes,
          maxBatchedTokens,
          recording: false,
          ...model,
        });
        this.models.push(opened);
        return { model: opened, device: 'cpu' };
      },
      post: (message) => this.#post(message),
      exit: (code) => this.die(`exit code ${code}`),
    });
  }

  send(message: ToHost): void {
    this.received.push(message);
    const copy = structuredClone(message);
    setImmediate(() => {
      if (this.#isDead || this.isFrozen) return;
      this.#loop.handle(copy).catch((thrown: unknown) => this.#loop.crash(thrown));
    });
  }

  kill(): void {
    this.die('signal SIGKILL');
  }

  die(detail: string): void {
    if (this.#isDead) return;
    this.#isDead = true;
    setImmediate(() => this.#events.onExit(detail));
  }

  #post(message: FromHost): void {
    const copy = structuredClone(message);
    // what left before the death still arrives
    if (!this.#isDead && !this.isFrozen) setImmediate(() => this.#events.onMessage(copy));
  }
}

export interface FakeEngine {
  readonly engine: LocalEngine;
  /** Every host so far, the live one last. */
  readonly hosts: InPlaceHost[];
}

export async function startFakeEngine(
  options: Partial<LocalEngineOptions> = {},
  model: FakeCausalLMOptions = {},
): Promise<FakeEngine> {
  const hosts: InPlaceHost[] = [];
  const spawn: SpawnHost = (events) => {
    const host = new InPlaceHost(events, model);
    hosts.push(host);
    return host;
  };
  const models = options.models ?? [
    { name: 'fake@sha256:0', aliases: ['generator', 'verifier'], digest: 'sha256:0', dir: 'nowhere', maxLength: 512 },
  ];
  const text = createInlineTextService(models.map(() => byteTextSide));
  const engine = await startLocalEngine({ minRestartDelayMs: 5, spawn, text, ...options, models });
  return { engine, hosts };
}

export function request(text: string, changes: Partial<GenerateRequest> = {}): GenerateRequest {
  return {
    id: 'test',
    model: 'generator',
    prompt: { kind: 'text', text },
    sampling: { ...DEFAULT_SAMPLING, temperature: 0 },
    maxTokens: 16,
    stop: [],
    priority: 'interactive',
    ...changes,
  };
}

export interface Folded {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly end: Extract<GenerationEvent, { type: 'end' }>;
  readonly events: readonly GenerationEvent[];
}

/** Reads a generation to its end. Throws what it throws, and if it does not begin with `start` or end with one `end`. */
export async function collect(engine: Engine, generate: GenerateRequest, signal?: AbortSignal): Promise<Folded> {
  const events: GenerationEvent[] = [];
  for await (const event of engine.generate(generate, signal === undefined ? {} : { signal })) events.push(event);
  const ends = events.filter((event) => event.type === 'end');
  const end = events.at(-1);
  if (ends.length !== 1 || end?.type !== 'end') throw new Error(`A generation ended ${ends.length} times.`);
  const deltas = events.filter((event) => event.type === 'delta');
  return {
    text: deltas.map((delta) => delta.text).join(''),
    tokens: deltas.flatMap((delta) => delta.tokens),
    end,
    events,
  };
}
