/** Elements by name. Text goes in as text, never as markup. */

type Child = Node | string | undefined;

/** Makes an element; properties are set as attributes, `undefined` leaves one out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string | number | boolean | undefined>> = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children) if (child !== undefined) element.append(child);
  return element;
}

/** The element of the page with this id; throws when the page has none of this kind. */
export function byId<E extends HTMLElement>(id: string, kind: new () => E): E {
  const element = document.getElementById(id);
  if (element instanceof kind) return element;
  throw new Error(`the page has no ${kind.name} #${id}`);
}

/** Changes a text that mostly grows without making its text node anew, so that a selection in it survives. */
export function setText(node: Text, text: string): void {
  const { data } = node;
  if (data === text) return;
  if (text.startsWith(data)) node.appendData(text.slice(data.length));
  else node.data = text;
}

/** A bar from 0 to 1 with a mark at `tick`. What it shows has to stand beside it as text too. */
export class Bar {
  readonly element: HTMLElement;
  readonly #fill = h('span', { class: 'bar-fill' });
  readonly #tick = h('span', { class: 'bar-tick', hidden: true });

  constructor(label: string) {
    this.element = h('span', {
      class: 'bar',
      role: 'meter',
      'aria-label': label,
      'aria-valuemin': 0,
      'aria-valuemax': 1,
    });
    this.element.append(this.#fill, this.#tick);
  }

  set(value: number, valueText: string, tick?: number): void {
    const share = Math.min(1, Math.max(0, value));
    this.element.setAttribute('aria-valuenow', share.toFixed(3));
    this.element.setAttribute('aria-valuetext', valueText);
    this.#fill.style.width = `${share * 100}%`;
    this.#tick.hidden = tick === undefined;
    if (tick !== undefined) this.#tick.style.left = `${tick * 100}%`;
  }
}
