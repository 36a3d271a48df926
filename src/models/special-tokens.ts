/**
 * Where special tokens stand in a text that a template has written, and how contents are kept from looking like one.
 *
 * Contents go into the template shielded: an invisible mark stands wherever a special token could begin, end or reach across
 * their borders, so the rendered text holds special tokens only where the template itself wrote them. The marks are
 * taken out of the plain stretches before these are encoded, so plain text is tokenized with its true neighbours.
 */
import type { AddedTokenEntry } from './tokenizer-files.ts';

// Noncharacters: never assigned, and escaped below should a content hold the first of them all the same.
const ESCAPE = '\uFDD0';
const ITSELF = `${ESCAPE}\uFDD1`;
const MARK = `${ESCAPE}\uFDD2`;
const WRITTEN = /\uFDD0([\uFDD1\uFDD2])/g;

type Stretch =
  | { readonly kind: 'plain'; readonly text: string; readonly isFirst: boolean }
  | { readonly kind: 'special'; readonly id: number };

export interface SpecialTokenText {
  /** Makes `content` inert inside a template. */
  shield(content: string): string;
  /** Splits rendered text; plain stretches are not empty. */
  split(rendered: string): readonly Stretch[];
}

function escapeForRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');
}

/** Undoes `shield` in a piece of rendered text. */
function unshield(rendered: string): string {
  return rendered.includes(ESCAPE)
    ? rendered.replace(WRITTEN, (_, kind: string) => (kind === '\uFDD1' ? ESCAPE : ''))
    : rendered;
}

/**
 * `tokens`: the special tokens a template may write. One of a single character cannot be kept apart from the same
 * character in a content and is left as text.
 */
export function createSpecialTokenText(tokens: readonly AddedTokenEntry[]): SpecialTokenText {
  const usable = tokens.filter((token) => [...token.content].length > 1);
  const byContent = new Map(usable.map((token) => [token.content, token]));
  // leftmost, then longest: alternatives in order of length
  const contents = [...byContent.keys()].sort((a, b) => b.length - a.length);
  const matcher = contents.length === 0 ? undefined : new RegExp(contents.map(escapeForRegExp).join('|'), 'gu');
  const beginnings = new Set(contents.map((content) => [...content][0] ?? ''));
  const beginning =
    beginnings.size === 0 ? undefined : new RegExp([...beginnings].map(escapeForRegExp).join('|'), 'gu');
  const anyHoldsSpace = contents.some((content) => /\s/u.test(content));

  const shield = (content: string): string => {
    let text = content.replaceAll(ESCAPE, ITSELF);
    // a token that begins inside the content is cut after its first character
    if (beginning !== undefined) text = text.replace(beginning, `$&${MARK}`);
    // one that reaches in or across is cut at the border, inside the whitespace that templates trim
    const trimmed = text.trim();
    if (trimmed !== '') {
      const start = text.indexOf(trimmed);
      const end = start + trimmed.length;
      text = `${text.slice(0, start)}${MARK}${trimmed}${MARK}${text.slice(end)}`;
    }
    return anyHoldsSpace ? MARK + text + MARK : text;
  };

  const split = (rendered: string): readonly Stretch[] => {
    const stretches: Stretch[] = [];
    let position = 0;
    let eatLeft = false;
    const plain = (end: number, eatRight: boolean): void => {
      const isFirst = position === 0;
      let text = unshield(rendered.slice(position, end));
      if (eatLeft) text = text.trimStart();
      if (eatRight) text = text.trimEnd();
      if (text !== '') stretches.push({ kind: 'plain', text, isFirst });
    };
    for (const match of matcher === undefined ? [] : rendered.matchAll(matcher)) {
      const token = byContent.get(match[0]);
      if (token === undefined) continue;
      plain(match.index, token.lstrip);
      stretches.push({ kind: 'special', id: token.id });
      position = match.index + match[0].length;
      eatLeft = token.rstrip;
    }
    plain(rendered.length, false);
    return stretches;
  };
  return { shield, split };
}
