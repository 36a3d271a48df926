/** Ready-made ONNX decoders on disk: which file is the graph, which hold its weights, and what is said about it beside it. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, resolve, sep } from 'node:path';
import { externalLocations } from '../runtime/external-data.ts';
import { checkpointInvalid } from './checkpoint-file.ts';
import { ConfigFields } from './config-fields.ts';
import { CONFIG_LIMITS } from './model-config.ts';

const GRAPH = 'model.onnx';
/** What ORT-GenAI has in place of config.json. */
export const GENAI_CONFIG = 'genai_config.json';

/**
 * Absolute path of the graph when `path` is a folder in the layout of onnx-community (`onnx/model.onnx`) or ORT-GenAI
 * (`model.onnx`) without a checkpoint of its own, or the graph itself; undefined for everything else.
 */
export function findOnnxGraph(path: string): string | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return undefined;
  if (!stat.isDirectory()) return path.endsWith('.onnx') ? resolve(path) : undefined;
  if (readdirSync(path).some((name) => name.endsWith('.safetensors') || name.endsWith('.gguf'))) return undefined;
  return [join(path, GRAPH), join(path, 'onnx', GRAPH)].map((file) => resolve(file)).find((file) => existsSync(file));
}

/** The folder with config.json (or genai_config.json) and tokenizer.json of a graph. */
export function folderOfGraph(graph: string): string {
  const beside = dirname(graph);
  return ['config.json', GENAI_CONFIG].some((name) => existsSync(join(beside, name))) ? beside : dirname(beside);
}

/**
 * The graph and the files that hold its weights, in the order of their paths. Throws StvError `checkpoint_invalid` for a graph that
 * cannot be read or whose weights lie outside of its folder.
 */
export function filesOfGraph(graph: string): readonly string[] {
  let locations: ReadonlySet<string>;
  try {
    locations = externalLocations(graph);
  } catch (error) {
    throw checkpointInvalid(graph, 'it cannot be read as ONNX.', error);
  }
  const folder = dirname(graph);
  const files = [...locations].map((location) => {
    const file = resolve(folder, location);
    if (!isAbsolute(location) && file.startsWith(join(folder, sep))) return file;
    throw checkpointInvalid(graph, `its weights lie in "${location.slice(0, 200)}", which is not inside its folder.`);
  });
  return [...new Set([graph, ...files])].sort();
}

export interface OnnxFacts {
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
}

/** From config.json, or genai_config.json where that is all there is. Throws StvError `checkpoint_invalid`. */
export function readOnnxFacts(graph: string): OnnxFacts {
  const folder = folderOfGraph(graph);
  const config = readFields(join(folder, 'config.json'));
  const genai = readFields(join(folder, GENAI_CONFIG))?.object('model');
  const fields = config ?? genai;
  if (fields === undefined) throw checkpointInvalid(folder, 'it has neither config.json nor genai_config.json.');
  const length = config?.has('max_position_embeddings') === true ? 'max_position_embeddings' : 'context_length';
  return {
    vocabSize: fields.integer('vocab_size', { min: 1, max: CONFIG_LIMITS.vocabSize }),
    maxPositionEmbeddings: (length === 'context_length' ? (genai ?? fields) : fields).integer(length, {
      min: 1,
      max: CONFIG_LIMITS.positions,
    }),
  };
}

function readFields(path: string): ConfigFields | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (typeof value === 'object' && value !== null) return new ConfigFields(path, new Map(Object.entries(value)));
  } catch (error) {
    throw checkpointInvalid(path, 'it is not valid JSON.', error);
  }
  throw checkpointInvalid(path, 'it does not hold a JSON object.');
}
