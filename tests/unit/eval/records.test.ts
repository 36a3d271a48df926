import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { EvalSettings, ProblemRecord } from '../../../src/eval/record-types.ts';
import { openRecords, packOfRecords } from '../../../src/eval/records.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const settings: EvalSettings = {
  chains: 1,
  max_rounds: 0,
  accept: { rule: 'single' },
  seed: 1,
  generator: { model: 'größer' },
  verifier: {},
  problems: 'sha256:0',
  pack: 'sha256:1',
};
const header = JSON.stringify({ settings });
const record: ProblemRecord = { id: 'a', batch: 0, models: { generator: 'g', verifier: 'v' }, chains: [] };

/** Name of a file with this content; without one there is no file. */
function fileOf(content?: string | Uint8Array): string {
  return path.join(temporaryFolder(content === undefined ? {} : { 'results.jsonl': content }), 'results.jsonl');
}

describe('openRecords', () => {
  it('begins a file, and goes on with it without a half-written last line', () => {
    const file = fileOf();
    openRecords(file, settings).append(record);
    const whole = readFileSync(file, 'utf8');
    expect(openRecords(file, settings).done).toEqual([record]);
    const cut = fileOf(`${whole}{"id":"grö`);
    expect(openRecords(cut, settings).done).toEqual([record]);
    expect(readFileSync(cut, 'utf8')).toBe(whole);
  });

  it('is known by the pack that it was made with, where it can be read', () => {
    const file = fileOf();
    expect(packOfRecords(file)).toBeNull();
    openRecords(file, settings);
    expect(packOfRecords(file)).toBe('sha256:1');
    expect(packOfRecords(fileOf('{"settings":'))).toBeNull();
    expect(packOfRecords(fileOf('{"settings":{}}\n'))).toBeNull();
  });

  it.each([
    ['one that was broken off within a character', Buffer.from(header).subarray(0, header.indexOf('ö') + 1)],
    ['one without its end', header],
    ['an empty one', ''],
  ])('begins again after a header that was never finished: %s', (_, content) => {
    const file = fileOf(content);
    expect(openRecords(file, settings).done).toEqual([]);
    expect(readFileSync(file, 'utf8')).toBe(`${header}\n`);
  });

  it('names the file where it cannot be written', () => {
    const file = path.join(temporaryFolder(), 'no-folder', 'results.jsonl');
    const open = () => openRecords(file, settings);
    expect(open).toThrow(expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(file) }));
  });

  it.each([
    ['problems whose last line has no end', '{"problem":"1 + 1","answer":"2"}\n{"problem":"1 + 2","answer":"3"}'],
    ['one problem', '{"problem":"1 + 1","answer":"2"}'],
    ['results of other settings', `${JSON.stringify({ settings: { ...settings, seed: 2 } })}\n{"id":"hal`],
    ['a header that goes on', `${header},`],
    ['empty lines', '\n\n'],
  ])('leaves every byte of a file that is not its own: %s', (_, content) => {
    const file = fileOf(content);
    const open = () => openRecords(file, settings);
    expect(open).toThrow(expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(file) }));
    expect(readFileSync(file, 'utf8')).toBe(content);
  });
});
