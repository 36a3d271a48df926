/** Messages to the text that a checkpoint was trained on, by its own template; contents are inert in it. */
import { StvError } from '../errors.ts';
import { BoundedTemplate, type RenderOptions } from '../template.ts';
import type { SpecialTokenText } from './special-tokens.ts';

export interface ChatTurn {
  readonly role: string;
  readonly content: string;
}

export interface ChatTemplateOptions extends RenderOptions {
  /** Further variables of the template, e.g. `enable_thinking: false`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

const ROLES: ReadonlySet<string> = new Set(['system', 'user', 'assistant']);

export class ChatTemplate {
  readonly #template: BoundedTemplate;
  readonly #where: string;
  readonly #specials: SpecialTokenText;
  readonly #variables: Readonly<Record<string, unknown>>;

  /** Throws StvError `pack_invalid` that names `where` when the source is not a usable template. */
  constructor(
    source: string,
    context: {
      readonly where: string;
      readonly specials: SpecialTokenText;
      /** `bos_token`, `eos_token` and the like, as the template names them. */
      readonly tokens: Readonly<Record<string, string>>;
    },
    options: ChatTemplateOptions = {},
  ) {
    this.#template = new BoundedTemplate(source, context.where, options);
    this.#where = context.where;
    this.#specials = context.specials;
    this.#variables = { ...context.tokens, ...options.variables };
  }

  /** The template's text with shielded contents, to be split by the `SpecialTokenText` it was made with. */
  render(messages: readonly ChatTurn[], addGenerationPrompt: boolean): string {
    if (messages.length === 0) {
      throw new StvError('invalid_value', 'messages is empty; at least one is needed.', { param: 'messages' });
    }
    messages.forEach(({ role }, index) => {
      if (!ROLES.has(role)) {
        throw new StvError('invalid_value', `messages[${index}].role is not one of ${[...ROLES].join(', ')}.`, {
          param: `messages[${index}].role`,
        });
      }
    });
    const result = this.#template.render({
      ...this.#variables,
      messages: messages.map(({ role, content }) => ({ role, content: this.#specials.shield(content) })),
      add_generation_prompt: addGenerationPrompt,
    });
    if (result.ok) return result.text;
    const { kind, reason } = result.failure;
    if (kind === 'refused') {
      throw new StvError('invalid_value', `The chat template of the model refuses the messages: ${reason}.`, {
        param: 'messages',
      });
    }
    throw new StvError('pack_invalid', `${this.#where}: the chat template cannot be rendered: ${reason}.`);
  }
}
