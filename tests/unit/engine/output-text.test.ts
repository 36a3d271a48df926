import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Detokenizer } from '../../../src/engine/detokenizer.ts';
import { OutputText } from '../../../src/engine/output-text.ts';
import { StopMatcher } from '../../../src/engine/stop-matcher.ts';

const text = fc.string({
  unit: fc.constantFrom('a', 'b', 'ü', '数', '🦊', '\uFFFD', '\n', 'E', 'N', 'D'),
  maxLength: 24,
});

/** Cuts a list at the given places. */
function cut<T>(items: readonly T[], places: readonly number[]): T[][] {
  const borders = [...new Set(places.map((place) => place % (items.length + 1)))].sort((a, b) => a - b);
  const pieces: T[][] = [];
  let from = 0;
  for (const to of [...borders, items.length]) {
    pieces.push(items.slice(from, to));
    from = to;
  }
  return pieces;
}

describe('Detokenizer', () => {
  it('adds up to the whole text for every split, and never shows half a character', () => {
    fc.assert(
      fc.property(text, fc.array(fc.nat(100)), (whole, places) => {
        const detokenizer = new Detokenizer();
        let shown = '';
        for (const piece of cut([...Buffer.from(whole)], places)) {
          shown += detokenizer.push(Uint8Array.from(piece));
          expect(whole.startsWith(shown)).toBe(true);
        }
        expect(shown + detokenizer.end()).toBe(whole);
      }),
      { numRuns: 200 },
    );
  });

  it('decodes ill-formed bytes as decoding them at once does, for every split', () => {
    const bytes = fc.array(
      fc.constantFrom(0x61, 0x80, 0xbf, 0xc2, 0xc0, 0xe0, 0xa0, 0xed, 0x9f, 0xef, 0xf0, 0x90, 0xf4, 0x8f, 0xf5, 0xff),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(bytes, fc.array(fc.nat(20)), (whole, places) => {
        const detokenizer = new Detokenizer();
        const shown = cut(whole, places).map((piece) => detokenizer.push(Uint8Array.from(piece)));
        expect(shown.join('') + detokenizer.end()).toBe(Buffer.from(whole).toString('utf8'));
      }),
      { numRuns: 500 },
    );
  });
});

/** Character by character, the slow way: the first end wins, the longest of those that end there. */
function referenceStop(whole: string, stops: readonly string[]): { shown: string; stop?: string } {
  for (let end = 1; end <= whole.length; end++) {
    const ending = stops.filter((stop) => whole.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (ending !== undefined) return { shown: whole.slice(0, end - ending.length), stop: ending };
  }
  return { shown: whole };
}

const stopsArbitrary = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'E'), minLength: 1, maxLength: 4 }), {
  maxLength: 3,
});
const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'E'), maxLength: 20 });

describe('StopMatcher', () => {
  it('gives the same result for every split, and holds back no more than it must', () => {
    fc.assert(
      fc.property(letters, stopsArbitrary, fc.array(fc.nat(100)), (whole, stops, places) => {
        const matcher = new StopMatcher(stops);
        const expected = referenceStop(whole, stops);
        let shown = '';
        let stop: string | undefined;
        for (const piece of cut([...whole], places)) {
          const found = matcher.push(piece.join(''));
          shown += found.text;
          expect(expected.shown.startsWith(shown), 'nothing of a stop string is ever shown').toBe(true);
          if (found.match !== undefined) {
            stop = found.match.stop;
            expect(found.match.start).toBe(shown.length);
            break;
          }
        }
        if (stop === undefined) shown += matcher.flush();
        expect({ shown, stop }).toEqual({ shown: expected.shown, stop: expected.stop });
      }),
      { numRuns: 500 },
    );
  });

  it('lets go at once what cannot begin a stop string', () => {
    const matcher = new StopMatcher(['</verdict>']);
    expect(matcher.push('yes </ver').text).toBe('yes ');
    expect(matcher.push('b').text).toBe('</verb');
    expect(matcher.push('x').text).toBe('x');
  });
});

describe('OutputText', () => {
  /** Tokens are pieces of bytes; item = index of the token. */
  it('keeps text and tokens aligned for every split, with and without a stop string', () => {
    fc.assert(
      fc.property(
        text,
        fc.array(fc.nat(100)),
        fc.constantFrom<readonly string[]>([], ['END'], ['a🦊', 'bb']),
        fc.boolean(),
        (whole, places, stop, includeStop) => {
          const pieces = cut([...Buffer.from(whole)], places);
          const output = new OutputText<number>({ stop, includeStop });
          const reference = referenceStop(whole, stop);
          const expected = reference.shown + (includeStop ? (reference.stop ?? '') : '');
          let shown = '';
          const items: number[] = [];
          let matched: string | undefined;
          for (const [index, piece] of pieces.entries()) {
            const found = output.push(Uint8Array.from(piece), index);
            shown += found.text;
            items.push(...found.items);
            expect(expected.startsWith(shown)).toBe(true);
            // every shown token's bytes are shown, unless a stop string cut through it
            const bytes = items.reduce((sum, item) => sum + (pieces[item] as number[]).length, 0);
            if (found.match === undefined) expect(bytes).toBeLessThanOrEqual(Buffer.byteLength(shown));
            if (found.match !== undefined) {
              matched = found.match.stop;
              break;
            }
          }
          if (matched === undefined) {
            const rest = output.end();
            shown += rest.text;
            items.push(...rest.items);
            expect(items).toEqual([...pieces.keys()]);
          }
          expect(shown).toBe(expected);
          expect(matched).toBe(reference.stop);
          expect(items).toEqual([...items.keys()]);
          // the tokens that are named cover all of the text that is shown
          const covered = items.reduce((sum, item) => sum + (pieces[item] as number[]).length, 0);
          expect(covered).toBeGreaterThanOrEqual(Buffer.byteLength(shown));
        },
      ),
      { numRuns: 500 },
    );
  });

  it('drops tokens that hold nothing but the stop string', () => {
    const output = new OutputText<string>({ stop: ['END'] });
    const push = (piece: string) => output.push(Buffer.from(piece), piece);
    expect(push('one')).toEqual({ text: 'one', items: ['one'] });
    expect(push(' tE')).toEqual({ text: ' t', items: [] });
    expect(push('N')).toEqual({ text: '', items: [] });
    expect(push('D and')).toMatchObject({ text: '', items: [' tE'], match: { stop: 'END' } });
  });
});
