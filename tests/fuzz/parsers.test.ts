/**
 * The parsers of files from somebody else against damaged real files: an StvError that is meant for it, never another error,
 * never a hang, never memory out of proportion. `STV_FUZZ_INPUTS` is the number for each parser (`npm run fuzz:parsers`),
 * `STV_FUZZ_SEED` repeats a run.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { StvError } from '../../src/errors.ts';
import { readGguf } from '../../src/models/gguf.ts';
import { tokenizerFilesFromGguf } from '../../src/models/gguf-tokenizer.ts';
import { openCheckpoint } from '../../src/models/open-checkpoint.ts';
import { BUNDLED_PACKS, loadPack } from '../../src/models/pack.ts';
import { openSafetensors } from '../../src/models/safetensors.ts';
import { TextModel } from '../../src/models/text-model.ts';
import { createPromptRenderer } from '../../src/stv/prompts.ts';
import { goldenPath } from '../support/goldens.ts';
import { goldenMetadata } from '../support/tokenizer-goldens.ts';
import { mutateBytes, mutateJson, pick, type Random, randomOf } from './mutate.ts';

const numInputs = Number(process.env['STV_FUZZ_INPUTS'] ?? 150);
const seed = Number(process.env['STV_FUZZ_SEED'] ?? 20_260_105);

const folder = mkdtempSync(path.join(tmpdir(), 'stv-fuzz-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const expectedCodes = ['checkpoint_invalid', 'architecture_unsupported', 'pack_invalid', 'config_invalid'];
/** Bytes of memory per byte of input, above what any input may take. */
const maxFactor = 64;
const freeBytes = 16 << 20;
const maxMs = 5_000;

interface Target {
  /** Writes one damaged input; tells its bytes. */
  readonly write: (random: Random) => number;
  readonly read: () => Promise<void> | void;
}

interface Figures {
  accepted: number;
  refused: number;
  slowestMs: number;
  mostBytes: number;
}

async function fuzz(target: Target): Promise<Figures> {
  const figures: Figures = { accepted: 0, refused: 0, slowestMs: 0, mostBytes: 0 };
  for (let index = 0; index < numInputs; index++) {
    const size = target.write(randomOf(seed + index));
    const before = taken();
    const began = performance.now();
    try {
      await target.read();
      figures.accepted += 1;
    } catch (thrown) {
      const isMeant = thrown instanceof StvError && expectedCodes.includes(thrown.code);
      if (!isMeant) throw new Error(`input ${index} of seed ${seed}: ${(thrown as Error).stack}`);
      figures.refused += 1;
    }
    const ms = performance.now() - began;
    const bytes = taken() - before;
    figures.slowestMs = Math.max(figures.slowestMs, ms);
    figures.mostBytes = Math.max(figures.mostBytes, bytes);
    expect(ms, `input ${index} of seed ${seed} hangs`).toBeLessThan(maxMs);
    expect(bytes, `memory of input ${index} (${size} bytes) of seed ${seed}`).toBeLessThan(
      size * maxFactor + freeBytes,
    );
  }
  return figures;
}

function taken(): number {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

const file = (name: string): string => path.join(folder, name);

function writeJson(name: string, value: unknown): number {
  const text = JSON.stringify(value);
  writeFileSync(file(name), text);
  return Buffer.byteLength(text);
}

const ggufs = ['tiny-llama-biased/tiny-llama-biased', 'tiny-qwen2/tiny-qwen2', 'tiny-llama/tiny-llama'].flatMap(
  (name) => {
    try {
      return [readFileSync(goldenPath(`${name}.gguf`))];
    } catch {
      return [];
    }
  },
);
const tensorFile = readFileSync(goldenPath('tiny-llama', 'model.safetensors'));
const tensorHeader = JSON.parse(tensorFile.toString('utf8', 8, 8 + Number(tensorFile.readBigUInt64LE(0)))) as object;
const tensorData = tensorFile.subarray(8 + Number(tensorFile.readBigUInt64LE(0)));
const tokenizer: unknown = JSON.parse(readFileSync(goldenPath('tiny-llama', 'tokenizer.json'), 'utf8'));
const tokenizerConfig: unknown = JSON.parse(readFileSync(goldenPath('tiny-llama', 'tokenizer_config.json'), 'utf8'));
const config: unknown = JSON.parse(readFileSync(goldenPath('tiny-llama', 'config.json'), 'utf8'));
const packJson: unknown = JSON.parse(readFileSync(path.join(BUNDLED_PACKS, 'smollm2', 'pack.json'), 'utf8'));

const targets: Readonly<Record<string, Target>> = {
  gguf: {
    write(random) {
      const bytes = mutateBytes(random, pick(random, ggufs), 12_000);
      writeFileSync(file('model.gguf'), bytes);
      return bytes.length;
    },
    read() {
      const checkpoint = openCheckpoint(file('model.gguf'));
      try {
        for (const name of [...checkpoint.tensors.keys()].slice(0, 2)) {
          checkpoint.readBlocks(name);
          checkpoint.readFloat32(name);
        }
      } finally {
        checkpoint.close();
      }
      const { metadata } = readGguf(file('model.gguf'));
      new TextModel(tokenizerFilesFromGguf(metadata, 'model.gguf')).encodeText('1 + 1 = 2');
    },
  },
  'gguf metadata': {
    write(random) {
      const metadata = goldenMetadata(pick(random, ['smollm', 'llama-spm', 'qwen2'] as const));
      const plain = Object.fromEntries([...metadata].filter(([, value]) => !ArrayBuffer.isView(value)));
      const damaged = mutateJson(random, plain) as Record<string, unknown>;
      current = new Map([...metadata].filter(([, value]) => ArrayBuffer.isView(value)));
      for (const [key, value] of Object.entries(damaged)) if (isGgufLike(value)) current.set(key, value);
      return 16_384;
    },
    read() {
      new TextModel(tokenizerFilesFromGguf(current as never, 'model.gguf')).encodeText('1 + 1 = 2');
    },
  },
  safetensors: {
    write(random) {
      const useJson = random() < 0.5;
      if (!useJson) {
        const bytes = mutateBytes(random, tensorFile, 3000);
        writeFileSync(file('model.safetensors'), bytes);
        return bytes.length;
      }
      const header = Buffer.from(JSON.stringify(mutateJson(random, tensorHeader)));
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(header.length));
      writeFileSync(file('model.safetensors'), Buffer.concat([length, header, tensorData]));
      return 8 + header.length + tensorData.length;
    },
    read() {
      const opened = openSafetensors(file('model.safetensors'));
      try {
        for (const tensor of [...opened.tensors.values()].slice(0, 2)) opened.readFloat32(tensor);
      } finally {
        opened.close();
      }
    },
  },
  'config.json': {
    write(random) {
      writeFileSync(file('hf/model.safetensors'), tensorFile);
      return tensorFile.length + writeJson('hf/config.json', mutateJson(random, config));
    },
    read: () => openCheckpoint(file('hf')).close(),
  },
  'tokenizer.json': {
    write(random) {
      const both = random() < 0.2 ? mutateJson(random, tokenizerConfig) : tokenizerConfig;
      const size = writeJson('text/tokenizer_config.json', both);
      if (random() < 0.8) return size + writeJson('text/tokenizer.json', mutateJson(random, tokenizer));
      const bytes = mutateBytes(random, Buffer.from(JSON.stringify(tokenizer)), 7000);
      writeFileSync(file('text/tokenizer.json'), bytes);
      return size + bytes.length;
    },
    async read() {
      const model = await TextModel.load(file('text'));
      const ids = model.encodeText('Solve: 12 + 30 é 🙂\n<|im_end|>');
      model.decode(ids);
      if (model.hasChatTemplate) model.encodeChat([{ role: 'user', content: 'hi' }]);
    },
  },
  pack: {
    write(random) {
      const template = random() < 0.3;
      const verify =
        '{{ problem }} {% if solution %}{{ solution }}{% endif %}{% for x in range(3) %}{{ x }}{% endfor %}';
      const text = template ? mutateBytes(random, Buffer.from(verify), 1000) : Buffer.from(verify);
      writeFileSync(file('pack/prompts/verify.jinja'), text);
      return text.length + writeJson('pack/pack.json', template ? packJson : mutateJson(random, packJson));
    },
    async read() {
      const renderer = createPromptRenderer(await loadPack(file('pack')), {});
      renderer.verify({ problem: 'p', solution: 's' });
    },
  },
};

let current = new Map<string, unknown>();

/** What the reader of GGUF files can give: scalars, lists of texts, typed arrays. */
function isGgufLike(value: unknown): boolean {
  return (
    ['string', 'number', 'boolean'].includes(typeof value) ||
    (Array.isArray(value) && value.every((each) => typeof each === 'string'))
  );
}

describe('damaged files', () => {
  it.each(Object.keys(targets))(
    '%s: refused or read, and nothing else',
    async (name) => {
      const target = targets[name] as Target;
      await cp(path.join(BUNDLED_PACKS, 'smollm2'), file('pack'), { recursive: true });
      for (const sub of ['hf', 'text']) await cp(goldenPath('tiny-llama'), file(sub), { recursive: true });
      const figures = await fuzz(target);
      const { accepted, refused, slowestMs, mostBytes } = figures;
      process.stdout.write(
        `${name}: ${numInputs} inputs, ${refused} refused, ${accepted} read, slowest ${slowestMs.toFixed(0)} ms, ` +
          `most memory ${(mostBytes / 2 ** 20).toFixed(1)} MiB\n`,
      );
      expect(accepted + refused).toBe(numInputs);
      expect(refused, 'the damage reaches the checks').toBeGreaterThan(numInputs / 10);
    },
    3_600_000,
  );
});
