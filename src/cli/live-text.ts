/** Rounds as they happen, as text on stderr: headings in bold and verdicts in colour where that is a terminal that wants it. */
import { styleText } from 'node:util';
import type { FirstError } from '../client/client.ts';

type Verdict = 'accept' | 'reject' | 'undetermined';
type Style = 'bold' | 'dim' | 'green' | 'red' | 'yellow';

const verdictStyles: Readonly<Record<Verdict, Style>> = { accept: 'green', reject: 'red', undetermined: 'yellow' };

export interface LiveText {
  heading(text: string): void;
  /** A piece of a text that is being written. */
  piece(text: string): void;
  line(text: string): void;
  verdict(result: { readonly verdict: Verdict; readonly score: number; readonly first_error: FirstError | null }): void;
}

export function createLiveText(stream: NodeJS.WriteStream = process.stderr): LiveText {
  const isPlain = !stream.isTTY || process.env['NO_COLOR'] !== undefined;
  const styled = (style: Style, text: string): string => (isPlain ? text : styleText(style, text));
  let isAtLineStart = true;
  const write = (text: string): void => {
    if (text === '') return;
    isAtLineStart = text.endsWith('\n');
    stream.write(text);
  };
  const freshLine = (): void => {
    if (!isAtLineStart) write('\n');
  };
  return {
    heading(text) {
      freshLine();
      write(`${styled('bold', harmless(text))}\n`);
    },
    piece: (text) => write(harmless(text)),
    line(text) {
      freshLine();
      write(`${harmless(text)}\n`);
    },
    verdict({ verdict, score, first_error }) {
      freshLine();
      const bar = probabilityBar(score);
      const step = first_error === null ? '' : `, first wrong step: ${first_error.step}`;
      write(`${styled(verdictStyles[verdict], verdict)}  ${styled('dim', bar)} ${(100 * score).toFixed(1)} %${step}\n`);
    },
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/** A model's text must not steer the terminal; tabs and line breaks may pass. */
function harmless(text: string): string {
  return text.replaceAll(controls, '\uFFFD');
}

/** The same for standard output, where a program that reads it gets the text as it is. */
export function forStdout(text: string): string {
  return process.stdout.isTTY ? harmless(text) : text;
}

/** Twenty characters from empty to full. */
export function probabilityBar(probability: number): string {
  const width = 20;
  const filled = Math.round(Math.min(1, Math.max(0, probability)) * width);
  return `${'█'.repeat(filled)}${'░'.repeat(width - filled)}`;
}
