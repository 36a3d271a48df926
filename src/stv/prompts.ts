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

/** Throws StvError `pack_invalid` when a template is not valid Jinja; so does each rendering that fails. */
export function createPromptRenderer(pack: LoopPack): PromptRenderer {
  const compile = (
    name: string,
    template: PromptTemplate,
  ): ((texts: Readonly<Record<string, string>>) => RenderedPrompt) => {
    const where = `Pack ${pack.name}, prompt \`${name}\``;
    const parts = template.messages.map((message) => ({
      role: message.role,
      template: new BoundedTemplate(message.template, where),
    }));
    return (texts) => ({
      messages: parts.map(({ role, template }) => {
        const result = template.render(texts);
        if (!result.ok) throw new StvError('pack_invalid', `${where}: ${result.failure.reason}.`);
        return { role, content: result.text };
      }),
      prefix: template.assistantPrefix ?? '',
    });
  };
  const attempt = compile('attempt', pack.prompts.attempt);
  const refine = compile('refine', pack.prompts.refine);
  const verify = compile('verify', pack.prompts.verify);
  const { verifyWithReference } = pack.prompts;
  const informed = verifyWithReference && compile('verifyWithReference', verifyWithReference);
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
