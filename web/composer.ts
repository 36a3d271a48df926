/** The form: what the user wants to have solved, and how. Keeps a draft in this tab. */
import type { SolveRequest } from '../src/client/client.ts';
import { byId, h } from './dom.ts';
import { exampleGroups } from './examples.ts';
import { recall, remember } from './tab-storage.ts';
import { ruleText } from './wording.ts';

export type AcceptRule = NonNullable<SolveRequest['accept']>;

export type Wanted = Omit<SolveRequest, 'stream' | 'background' | 'store'>;

const numberFields = [
  'max-rounds',
  'chains',
  'rule-k',
  'rule-n',
  'rule-threshold',
  'tokens',
  'seconds',
  'seed',
] as const;
type NumberField = (typeof numberFields)[number];

const draftKey = 'stv-draft';

export class Composer {
  readonly #form = byId('composer', HTMLFormElement);
  readonly #problem = byId('problem', HTMLTextAreaElement);
  readonly #attempt = byId('attempt', HTMLTextAreaElement);
  readonly #rule = byId('rule', HTMLSelectElement);
  readonly #error = byId('form-error', HTMLElement);
  readonly #numbers = Object.fromEntries(numberFields.map((id) => [id, byId(id, HTMLInputElement)])) as Record<
    NumberField,
    HTMLInputElement
  >;

  /** `onStart` gets every request that the form's own checks let through. */
  constructor(onStart: (wanted: Wanted) => void) {
    this.#fillExamples();
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      const wanted = this.#read();
      if (wanted !== undefined) onStart(wanted);
    });
    this.#form.addEventListener('input', () => this.#follow());
    this.#form.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.#form.requestSubmit();
    });
    this.#restoreDraft();
    this.#follow();
  }

  show(isShown: boolean): void {
    this.#form.hidden = !isShown;
  }

  focus(): void {
    this.#problem.focus();
  }

  /** Shows what the server said against the request, at the field that it names where there is one. */
  showError(message: string | undefined, param?: string): void {
    this.#error.hidden = message === undefined;
    this.#error.textContent = message ?? '';
    const fields: Readonly<Record<string, HTMLElement>> = {
      problem: this.#problem,
      initial_attempt: this.#attempt,
      max_rounds: this.#numbers['max-rounds'],
      chains: this.#numbers.chains,
      seed: this.#numbers.seed,
      'accept.k': this.#numbers['rule-k'],
      'accept.n': this.#numbers['rule-n'],
    };
    const field = param === undefined ? undefined : fields[param];
    if (field instanceof HTMLInputElement) byId('options', HTMLDetailsElement).open = true;
    field?.focus();
  }

  #begin(): 'model' | 'attempt' {
    return new FormData(this.#form).get('begin') === 'attempt' ? 'attempt' : 'model';
  }

  #choose(begin: 'model' | 'attempt'): void {
    for (const radio of this.#form.querySelectorAll<HTMLInputElement>('input[name=begin]')) {
      radio.checked = radio.value === begin;
    }
  }

  #fillExamples(): void {
    const select = byId('examples', HTMLSelectElement);
    for (const { name, examples } of exampleGroups) {
      const options = examples.map((example) => h('option', { value: `${name}/${example.name}` }, example.name));
      select.append(h('optgroup', { label: name }, ...options));
    }
    // not while choosing: arrow keys on a closed list choose every example that they pass
    byId('use-example', HTMLButtonElement).addEventListener('click', () => {
      const found = exampleGroups
        .flatMap(({ name, examples }) => examples.map((example) => ({ key: `${name}/${example.name}`, example })))
        .find(({ key }) => key === select.value)?.example;
      if (found === undefined) return;
      this.#problem.value = found.problem;
      this.#attempt.value = found.attempt ?? '';
      this.#choose(found.attempt === undefined ? 'model' : 'attempt');
      this.#follow();
    });
  }

  /** What follows from the fields: which of them are shown, the line beside the options, the draft. */
  #follow(): void {
    this.showError(undefined);
    byId('attempt-field', HTMLElement).hidden = this.#begin() === 'model';
    for (const field of this.#form.querySelectorAll<HTMLElement>('[data-rule]')) {
      field.hidden = !field.dataset['rule']?.split(' ').includes(this.#rule.value);
    }
    const rounds = this.#numbers['max-rounds'].value;
    const chains = Number(this.#numbers.chains.value);
    byId('options-summary', HTMLElement).textContent = [
      `${rounds} revision${rounds === '1' ? '' : 's'}`,
      ...(chains > 1 ? [`${chains} chains`] : []),
      `accept after ${ruleText(this.#acceptRule())}`,
    ].join(' · ');
    this.#saveDraft();
  }

  #acceptRule(): AcceptRule {
    const value = (id: NumberField): number => Number(this.#numbers[id].value);
    switch (this.#rule.value) {
      case 'consecutive':
        return { rule: 'consecutive', k: value('rule-k') };
      case 'votes':
        return { rule: 'votes', k: value('rule-k'), n: value('rule-n') };
      case 'score':
        return { rule: 'score', threshold: value('rule-threshold') };
      default:
        return { rule: 'single' };
    }
  }

  #read(): Wanted | undefined {
    if (this.#problem.value.trim() === '') {
      this.showError('Type a problem first, or pick one.', 'problem');
      return undefined;
    }
    if (this.#begin() === 'attempt' && this.#attempt.value.trim() === '') {
      this.showError('Write down the attempt to check, or let the model begin.', 'initial_attempt');
      return undefined;
    }
    const invalid = numberFields
      .map((id) => this.#numbers[id])
      .find((input) => !input.closest('[hidden]') && !input.validity.valid);
    if (invalid !== undefined) {
      byId('options', HTMLDetailsElement).open = true;
      this.showError(`${invalid.labels?.[0]?.textContent ?? invalid.id}: ${invalid.validationMessage}`);
      invalid.focus();
      return undefined;
    }
    const number = (id: NumberField): number | undefined =>
      this.#numbers[id].value === '' ? undefined : Number(this.#numbers[id].value);
    const [tokens, seconds, seed] = [number('tokens'), number('seconds'), number('seed')];
    const budget = { ...(tokens === undefined ? {} : { tokens }), ...(seconds === undefined ? {} : { seconds }) };
    return {
      problem: this.#problem.value.trim(),
      max_rounds: number('max-rounds') ?? 6,
      chains: number('chains') ?? 1,
      accept: this.#acceptRule(),
      ...(this.#begin() === 'attempt' ? { initial_attempt: this.#attempt.value.trimEnd() } : {}),
      ...(Object.keys(budget).length === 0 ? {} : { budget }),
      ...(seed === undefined ? {} : { seed }),
    };
  }

  #saveDraft(): void {
    const numbers = Object.fromEntries(numberFields.map((id) => [id, this.#numbers[id].value]));
    const draft = {
      problem: this.#problem.value,
      attempt: this.#attempt.value,
      begin: this.#begin(),
      rule: this.#rule.value,
      numbers,
    };
    remember(draftKey, JSON.stringify(draft));
  }

  #restoreDraft(): void {
    const text = recall(draftKey);
    if (text === undefined) return;
    // only this class writes under this name
    const draft = JSON.parse(text) as {
      readonly problem: string;
      readonly attempt: string;
      readonly begin: 'model' | 'attempt';
      readonly rule: string;
      readonly numbers: Readonly<Record<NumberField, string>>;
    };
    this.#problem.value = draft.problem;
    this.#attempt.value = draft.attempt;
    this.#choose(draft.begin);
    this.#rule.value = draft.rule;
    for (const id of numberFields) this.#numbers[id].value = draft.numbers[id];
  }
}
