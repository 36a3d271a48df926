import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tokenizerFilesFromGguf } from '../../../src/models/gguf-tokenizer.ts';
import { TextModel } from '../../../src/models/text-model.ts';
import type { JsonObject, TokenizerFiles } from '../../../src/models/tokenizer-files.ts';
import { expectStvError } from '../../support/stv-error.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { goldenMetadata, readTokenizerGoldens, type TokenizerKind } from '../../support/tokenizer-goldens.ts';

const SPECIALS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];

function filesOf(kind: TokenizerKind, changes: Partial<TokenizerFiles> = {}): TokenizerFiles {
  return { ...tokenizerFilesFromGguf(goldenMetadata(kind), 'model'), ...changes };
}

/** Special tokens whole, cut and doubled, the characters that shield them, whitespace of all kinds, and anything else. */
const hostileText = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom(...SPECIALS) },
      {
        weight: 3,
        arbitrary: fc
          .tuple(fc.constantFrom(...SPECIALS), fc.nat(14), fc.nat(14))
          .map(([special, a, b]) => special.slice(Math.min(a, b), Math.max(a, b))),
      },
      {
        weight: 2,
        arbitrary: fc.constantFrom(
          '\uFDD0',
          '\uFDD1',
          '\uFDD2',
          '<',
          '>',
          '|',
          'im_end',
          ' ',
          '\n',
          '\ufeff',
          '\ud800',
        ),
      },
      { weight: 2, arbitrary: fc.string({ unit: 'binary', maxLength: 8 }) },
      { weight: 1, arbitrary: fc.string({ unit: 'grapheme', maxLength: 8 }) },
    ),
    { maxLength: 12 },
  )
  .map((parts) => parts.join(''));

/** Lone surrogates become U+FFFD, as in UTF-8. */
function wellFormed(text: string): string {
  return Buffer.from(text).toString();
}

function specialsOf(model: TextModel, ids: readonly number[]): number[] {
  return ids.filter((id) => model.isSpecial(id));
}

describe('texts of users', () => {
  it.each<TokenizerKind>(['smollm', 'qwen2', 'llama-bpe', 'llama-spm'])('never become special tokens (%s)', (kind) => {
    const model = new TextModel(filesOf(kind));
    fc.assert(
      fc.property(hostileText, (text) => specialsOf(model, model.encodeText(text)).length === 0),
      { numRuns: 150 },
    );
  });

  it('are decoded to what they were, special tokens included', () => {
    const model = new TextModel(filesOf('smollm'));
    fc.assert(
      fc.property(hostileText, (text) => {
        expect(model.decode(model.encodeText(text))).toBe(wellFormed(text));
      }),
      { numRuns: 150 },
    );
  });

  it('reach the prompt unchanged through the chat template', () => {
    const model = new TextModel(filesOf('smollm'));
    fc.assert(
      fc.property(hostileText, hostileText, (content, assistantPrefix) => {
        const ids = model.encodeChat([{ role: 'user', content }], { assistantPrefix });
        const written = `<|im_start|>user\n${content}<|im_end|>\n<|im_start|>assistant\n${assistantPrefix}`;
        expect(model.decode(ids)).toBe(wellFormed(written));
      }),
      { numRuns: 150 },
    );
  });

  it('cannot become a special token by being the vocabulary entry of one', () => {
    // with ignore_merges a word that is in the vocabulary is one token without any merge
    const files = filesOf('llama-bpe');
    const model = new TextModel({ ...files, tokenizer: { ...files.tokenizer, pre_tokenizer: null } });
    expect(specialsOf(model, model.encodeText('<|im_end|>'))).toEqual([]);
    expect(model.decode(model.encodeText('<|im_end|>'))).toBe('<|im_end|>');
  });
});

describe('special tokens of a chat', () => {
  // Templates that put their own text right beside a content, or trim it.
  const templates: readonly string[] = [
    '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}',
    '{% for m in messages %}<{{ m.content }}>{{ m.content }}|im_end|>{% endfor %}{% if add_generation_prompt %}<|{% endif %}',
    '{% for m in messages %}<|im_{{ m.content.strip() }}end|><|im_start|>{% endfor %}',
    "{% for m in messages %}{{ '<|' + m.content + '|>' }}{{ m.content }}{% endfor %}",
  ];

  it.each(templates.map((template) => [template]))('come from the template only: %s', (chatTemplate) => {
    const model = new TextModel(filesOf('smollm', { chatTemplate }));
    fc.assert(
      fc.property(fc.array(hostileText, { minLength: 1, maxLength: 3 }), hostileText, (contents, assistantPrefix) => {
        const turn = (content: string): { role: string; content: string } => ({ role: 'user', content });
        const ids = model.encodeChat(contents.map(turn), { assistantPrefix });
        // contents of one plain letter: what is special then is special by the template's own text
        const benign = model.encodeChat(
          contents.map(() => turn('x')),
          { assistantPrefix: 'x' },
        );
        const empty = model.encodeChat(contents.map(() => turn('')));
        const allowed = [specialsOf(model, benign), specialsOf(model, empty)].map((special) => special.join());
        // a content of mere whitespace may be trimmed to nothing, so a mixture of both is allowed as well
        if (contents.every((content) => content.trim() !== '')) expect(specialsOf(model, ids).join()).toBe(allowed[0]);
        else expect(specialsOf(model, ids).length).toBeLessThanOrEqual(Math.max(...allowed.map((list) => list.length)));
      }),
      { numRuns: 100 },
    );
  });

  it('take the whitespace beside them where the tokenizer says so', () => {
    const files = filesOf('smollm');
    const added = files.tokenizer['added_tokens'] as readonly JsonObject[];
    const strip = added.map((token) =>
      token['content'] === '<|im_end|>' ? { ...token, lstrip: true, rstrip: true } : token,
    );
    const model = new TextModel({ ...files, tokenizer: { ...files.tokenizer, added_tokens: strip } });
    expect(model.decode(model.encodeTextWithSpecials('a  <|im_end|> \n b'))).toBe('a<|im_end|>b');
  });

  it('are written by templates of ours as their ids', () => {
    const model = new TextModel(filesOf('smollm'));
    expect(model.encodeTextWithSpecials('<|im_start|><|im_end|>')).toEqual([1, 2]);
    expect(model.encodeTextWithSpecials('<|im_end|>', { addBos: true })).toEqual([1, 2]);
  });
});

describe('TextModel', () => {
  it('encodes an assistant prefix with its true neighbours', () => {
    const model = new TextModel(filesOf('smollm'));
    const messages = [{ role: 'user', content: 'Q' }];
    expect(model.encodeChat(messages, { assistantPrefix: 'Step 1' })).toEqual(
      model.encodeTextWithSpecials('<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nStep 1'),
    );
  });

  it('takes the beginning of a text for the first of its sections only', () => {
    // Llama 2's newer layout: one space before the text, none after a special token
    const files = filesOf('llama-spm');
    const preTokenizer = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false };
    const tokenizer = { ...files.tokenizer, normalizer: null, pre_tokenizer: preTokenizer };
    const model = new TextModel({ ...files, tokenizer });
    const [a] = readTokenizerGoldens('llama-spm').texts;
    expect(model.encodeText(a?.text ?? '')).toEqual(a?.ids);
    const after = model.encodeTextWithSpecials(`<s>${a?.text}`);
    expect(after[0]).toBe(1);
    expect(model.decode(after.slice(1)).startsWith('The quick')).toBe(true);
    expect(after.slice(1)).not.toEqual(a?.ids);
  });

  it('gives the exact bytes of every token', () => {
    for (const kind of ['smollm', 'llama-spm'] as const) {
      const model = new TextModel(filesOf(kind));
      for (const { text } of readTokenizerGoldens(kind).texts) {
        const bytes = model.encodeText(text).flatMap((id) => [...model.tokenBytes(id)]);
        const prefix = kind === 'llama-spm' ? ' ' : '';
        expect(bytes, JSON.stringify(text)).toEqual([...new TextEncoder().encode(prefix + text)]);
      }
    }
  });

  it('gives no bytes for ids that no token has', () => {
    const model = new TextModel(filesOf('smollm'));
    for (const id of [model.vocabSize, 1e9, -1, 0.5]) expect(model.tokenBytes(id)).toEqual(new Uint8Array(0));
  });

  it('writes special tokens out, or leaves them out', () => {
    const model = new TextModel(filesOf('smollm'));
    const ids = [...model.encodeText('hi'), 2];
    expect(model.decode(ids)).toBe('hi<|im_end|>');
    expect(model.decode(ids, { skipSpecial: true })).toBe('hi');
    expect(model.decode([])).toBe('');
  });

  it('finds the end of a turn in the template', () => {
    const chatTemplate = '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n<|endoftext|>{% endfor %}';
    const model = new TextModel(filesOf('smollm', { chatTemplate }));
    expect(model.eosTokenIds).toEqual([2]);
    expect(model.stopTokenIds).toEqual([2, 0]);
  });

  it('reads the ends of generation_config.json before those of config.json', () => {
    const tokenizerConfig = { bos_token: { content: '<|im_start|>' } };
    const modelConfig = { eos_token_id: 7, bos_token_id: 9 };
    const generation = new TextModel(
      filesOf('smollm', { tokenizerConfig, modelConfig, generationConfig: { eos_token_id: [2, 0] } }),
    );
    expect([generation.bosTokenId, generation.eosTokenIds]).toEqual([1, [2, 0]]);
    const config = new TextModel(filesOf('smollm', { tokenizerConfig, modelConfig, generationConfig: {} }));
    expect(config.eosTokenIds).toEqual([7]);
  });

  it('gives variables to the template', () => {
    const files = filesOf('smollm', { chatTemplate: '{{ mood }}{{ messages[0].content }}{{ eos_token }}' });
    const model = new TextModel(files, { variables: { mood: 'calm ' } });
    expect(model.decode(model.encodeChat([{ role: 'user', content: 'x' }]))).toBe('calm x<|im_end|>');
  });

  it('says which message or template is wrong', () => {
    const model = new TextModel(filesOf('smollm'));
    expectStvError(() => model.encodeChat([]), 'invalid_value', 'messages is empty');
    expectStvError(() => model.encodeChat([{ role: 'tool', content: '' }]), 'invalid_value', 'messages[0].role');
    const refuses = "{{ raise_exception('no system messages') if messages[0].role == 'system' else 'ok' }}";
    const picky = new TextModel(filesOf('smollm', { chatTemplate: refuses }));
    expectStvError(() => picky.encodeChat([{ role: 'system', content: 's' }]), 'invalid_value', 'no system messages');
    const endless = '{% for a in range(999999) %}{% for b in range(999999) %}{% endfor %}{% endfor %}';
    const hostile = filesOf('smollm', { chatTemplate: endless });
    expectStvError(() => new TextModel(hostile), 'pack_invalid', 'model: chat template', 'steps');
    const { chatTemplate: _, ...bare } = filesOf('smollm');
    expectStvError(() => new TextModel(bare).encodeChat([{ role: 'user', content: '' }]), 'unsupported_parameter');
  });

  it.each<[string, Readonly<Record<string, string>>, string, string]>([
    ['nothing', {}, 'checkpoint_invalid', 'no tokenizer.json'],
    ['broken JSON', { 'tokenizer.json': '{"model": ' }, 'checkpoint_invalid', 'tokenizer.json is not valid JSON'],
    ['a list', { 'tokenizer.json': '[]' }, 'checkpoint_invalid', 'does not hold a JSON object'],
    ['no model', { 'tokenizer.json': '{}' }, 'checkpoint_invalid', 'no model'],
    ['a Unigram model', { 'tokenizer.json': '{"model":{"type":"Unigram"}}' }, 'architecture_unsupported', 'Unigram'],
    [
      'no merges',
      { 'tokenizer.json': '{"model":{"type":"BPE","vocab":{}}}' },
      'checkpoint_invalid',
      'vocab and merges',
    ],
    [
      'an id that is none',
      { 'tokenizer.json': '{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}' },
      'checkpoint_invalid',
      '"a" has no valid id',
    ],
    [
      'an added token without content',
      { 'tokenizer.json': '{"added_tokens":[{"id":1}],"model":{"type":"BPE","vocab":{},"merges":[]}}' },
      'checkpoint_invalid',
      'added_tokens[0]',
    ],
    [
      'an unknown pre-tokenizer',
      { 'tokenizer.json': '{"pre_tokenizer":{"type":"Magic"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}' },
      'checkpoint_invalid',
      'Magic',
    ],
    [
      'no decoder',
      { 'tokenizer.json': '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}' },
      'architecture_unsupported',
      'decoder',
    ],
    [
      'an id beyond all measure',
      {
        'tokenizer.json': '{"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":999999999},"merges":[]}}',
      },
      'checkpoint_invalid',
      '999999999',
    ],
  ])('refuses a folder with %s', async (_, content, code, message) => {
    await expect(TextModel.load(temporaryFolder(content))).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
  });
});
