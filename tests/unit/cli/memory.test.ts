import { describe, expect, it } from 'vitest';
import { checkMemory } from '../../../src/cli/load-service.ts';
import type { LocalModel } from '../../../src/engine/local-engine.ts';
import { expectStvError } from '../../support/stv-error.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const config = { numHiddenLayers: 10, numKeyValueHeads: 2, headDim: 50, maxPositionEmbeddings: 4096 };
const manifest = { formatVersion: 1, weights: 'int8', config, weightsBytes: 1_000_000, hasScales: true };

function model(extra: object = {}): LocalModel {
  const dir = temporaryFolder({ 'model.json': JSON.stringify(manifest), 'weights.bin': new Uint8Array(1_000_000) });
  return { dir, device: 'cpu', numSlots: 10, maxLength: 1000, ...extra } as LocalModel;
}

describe('the memory of a model', () => {
  it('is that of its weights and of full caches', () => {
    // 2 * 10 layers * 2 heads * 50 * 10 slots * 1000 tokens * 4 bytes
    checkMemory([model()], 81_000_000);
    const { message } = expectStvError(() => checkMemory([model()], 80_999_999), 'runtime_failed', '--num-slots');
    expect(message).toContain('--context');
    expectStvError(() => checkMemory([model(), model()], 81_000_000), 'runtime_failed');
  });

  it('is less with int8 caches, with a checkpoint that holds fewer tokens, and where a GPU has them', () => {
    checkMemory([model({ kv: 'int8' })], 21_000_000);
    checkMemory([model({ maxLength: 1_000_000 })], 1_000_000 + 80_000 * 4096);
    checkMemory([model({ device: 'cuda' })], 1_000_000);
  });
});
