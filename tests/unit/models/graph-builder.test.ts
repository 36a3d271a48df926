import { describe, expect, it } from 'vitest';
import { buildLaneGraph } from '../../../src/models/build-lane-graph.ts';
import { GraphBuilder } from '../../../src/models/graph-builder.ts';
import { openCheckpoint } from '../../../src/models/open-checkpoint.ts';
import { goldenPath } from '../../support/goldens.ts';

describe('GraphBuilder', () => {
  it('refuses a name that is taken', () => {
    const builder = new GraphBuilder('sample');
    builder.input('x', 'float32', [1]);
    expect(() => builder.node('Op', ['x'], { name: 'x' })).toThrow('The graph sample defines x twice.');
  });
});

describe('lane graph', () => {
  const checkpoint = openCheckpoint(goldenPath('tiny-qwen3'));
  const { config } = checkpoint;
  checkpoint.close();

  it('asks for the same weights whatever the number of lanes', () => {
    const one = buildLaneGraph({ config, numLanes: 1, format: 'int4' });
    const many = buildLaneGraph({ config, numLanes: 16, format: 'int4' });
    expect(many.weights).toEqual(one.weights);
    expect(many.initializers).toEqual(one.initializers);
  });

  it('refuses a model type that it does not know', () => {
    const unknown = { ...config, modelType: 'mamba' as 'llama' };
    expect(() => buildLaneGraph({ config: unknown, numLanes: 1, format: 'int8' })).toThrow(
      expect.objectContaining({ code: 'architecture_unsupported', message: expect.stringContaining('"mamba"') }),
    );
  });
});
