/**
 * Renders a pack's prompts into messages. The texts of a request reach a template only as values of variables, and the
 * message that comes out is inert for the engine: no text can become template syntax, a role or a special token.
 */
import { createHash } from 'node:crypto';
import type { ChatMessage, Prompt } from '../engine/engine.ts';
import { StvError } from '../errors.ts';
import { BoundedTemplate } from '../template.ts';
import type { LoopPack, PromptTemplate } from './loop-pack.ts';
import type { Verdict } from './verdict.ts';

export interface RenderedPrompt {
  readonly messages: readonly ChatMessage[];
  /** Text at the head of the model's answer, written by the server. */
  readonly prefix: string;
}

export interface PromptRenderer {
  attempt(problem: string): RenderedPrompt;
  refine(texts: {
    readonly problem: string;
    readonly attempt: string;
    readonly feedback: string;
    readonly verdict: Verdict;
  }): RenderedPrompt;
  /** Throws StvError `unsupported_parameter` when there is a reference and the pack has no prompt for it. */
  verify(texts: {
    readonly problem: string;
    readonly solution: string;
    readonly reference?: string | undefined;
  }): RenderedPrompt;
}

type Texts = Readonly<Record<string, string>>;

/** Tokens of prompt and output together, by role; no bound where absent. */
export interface ContextLengths {
  readonly generator?: number;
  readonly verifier?: number;
}

/**
 * Throws StvError `pack_invalid` when a template is not valid Jinja; so does each rendering that fails. Texts that cannot fit into the
 * context by their lines alone are refused with `context_length_exceeded`.
 */
export function createPromptRenderer(pack: LoopPack, contexts: ContextLengths): PromptRenderer {
  const compile = (
    name: string,
    template: PromptTemplate,
    contextLength: number | undefined,
  ): ((texts: Texts) => RenderedPrompt) => {
    const where = `Pack ${pack.name}, prompt \`${name}\``;
    const parts = template.messages.map((message) => ({
      role: message.role,
      template: new BoundedTemplate(message.template, where),
    }));
    const render = (texts: Texts): RenderedPrompt => ({
      messages: parts.map(({ role, template }) => {
        const result = template.render(texts);
        if (!result.ok) throw new StvError('pack_invalid', `${where}: ${result.failure.reason}.`);
        return { role, content: result.text };
      }),
      prefix: template.assistantPrefix ?? '',
    });
    let last: { readonly texts: Texts; readonly prompt: RenderedPrompt } | undefined;
    return (texts) => {
      // the chains of a run begin with the same texts, and a long one takes a template a second
      if (last !== undefined && isSame(last.texts, texts)) return last.prompt;
      if (contextLength !== undefined) checkLines(texts, contextLength);
      last = { texts, prompt: render(texts) };
      return last.prompt;
    };
  };
  const { generator, verifier } = contexts;
  const attempt = compile('attempt', pack.prompts.attempt, generator);
  const refine = compile('refine', pack.prompts.refine, generator);
  const verify = compile('verify', pack.prompts.verify, verifier);
  const { verifyWithReference } = pack.prompts;
  const informed = verifyWithReference && compile('verifyWithReference', verifyWithReference, verifier);
  return {
    attempt: (problem) => attempt({ problem }),
    refine: (texts) => refine({ ...texts }),
    verify: ({ problem, solution, reference }) => {
      if (reference === undefined) return verify({ problem, solution });
      if (informed === undefined) {
        throw new StvError('unsupported_parameter', `The pack ${pack.name} has no prompt that takes a \`reference\`.`, {
          param: 'reference',
        });
      }
      return informed({ problem, solution, reference });
    },
  };
}

function isSame(one: Texts, other: Texts): boolean {
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}

/** A line that is not blank is a token at least. Templates go through a text line by line, which takes long where there are thousands. */
function checkLines(texts: Texts, contextLength: number): void {
  let numLines = 0;
  for (const text of Object.values(texts)) for (const line of text.split('\n')) if (line.trim() !== '') numLines += 1;
  if (numLines <= contextLength) return;
  throw new StvError(
    'context_length_exceeded',
    `The texts have ${numLines} lines, each a token at least; the model's context holds ${contextLength} tokens of prompt and output together.`,
  );
}

/** The prompt for the engine, with `more` behind what the server writes at the head of the answer anyway. */
export function toEnginePrompt(rendered: RenderedPrompt, more = ''): Prompt {
  const assistantPrefix = rendered.prefix + more;
  return { kind: 'chat', messages: rendered.messages, ...(assistantPrefix === '' ? {} : { assistantPrefix }) };
}

/** Names a prompt in records without repeating its texts. */
export function promptHash(rendered: RenderedPrompt): string {
  const text = JSON.stringify([rendered.messages.map(({ role, content }) => [role, content]), rendered.prefix]);
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}
