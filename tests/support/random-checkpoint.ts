/** Checkpoints of any size with random weights, for sizes that the committed goldens do not have. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createRandom } from '../../src/eval/statistics.ts';
import { expectedTensors } from '../../src/models/expected-tensors.ts';
import { readModelConfig } from '../../src/models/model-config-json.ts';
import { floatBytes, type SafetensorsEntry, safetensorsFile } from './checkpoint-files.ts';
import { temporaryFolder } from './temporary-folder.ts';

const CONFIG = {
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 160,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
};

/**
 * Folder with safetensors of a config.json like `CONFIG`, but for `changes`; it has no tokenizer. Always the same weights, but for
 * what `times` multiplies the rows with.
 */
export function randomCheckpoint(
  changes: Readonly<Record<string, unknown>> = {},
  times: (name: string, row: number) => number = () => 1,
): string {
  const folder = temporaryFolder({ 'config.json': JSON.stringify({ ...CONFIG, ...changes }) });
  const random = createRandom(7);
  const header: Record<string, SafetensorsEntry> = {};
  const values: number[] = [];
  for (const [name, shape] of expectedTensors(readModelConfig(folder))) {
    const begin = values.length * 4;
    const count = shape.reduce((product, size) => product * size, 1);
    // around 1 for norms, else of the size that keeps the product of a row about as large as its input
    const [middle, width] = name.includes('norm') ? [1, 0.8] : [0, 3 / Math.sqrt(shape.at(-1) ?? 1)];
    const columns = shape.length === 1 ? 1 : (shape.at(-1) ?? 1);
    for (let i = 0; i < count; i++) {
      values.push((middle + width * (2 * random() - 1)) * times(name, Math.floor(i / columns)));
    }
    header[name] = { dtype: 'F32', shape, data_offsets: [begin, values.length * 4] };
  }
  writeFileSync(join(folder, 'model.safetensors'), safetensorsFile(header, floatBytes(...values)));
  return folder;
}
