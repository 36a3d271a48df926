/** What a ready-made decoder takes and gives, checked against the layout of onnx-community and ORT-GenAI. */
import { StvError } from '../errors.ts';
import type { Session } from '../runtime/session.ts';
import type { SessionValue } from '../runtime/session-values.ts';

/** One cached tensor: `[batch, numHeads, length, headDim]` in and out. */
export interface OnnxCache {
  readonly past: string;
  readonly present: string;
  readonly type: 'float32' | 'float16';
  readonly numHeads: number;
  readonly headDim: number;
}

export interface OnnxInterface {
  readonly caches: readonly OnnxCache[];
  readonly hasPositions: boolean;
  readonly logitsType: 'float32' | 'float16';
}

const PAST = /^past_key_values\.(\d+)\.(key|value)$/u;

/** Throws StvError `architecture_unsupported` that names the graph and what of it does not fit. */
export function readOnnxInterface(session: Session, path: string): OnnxInterface {
  const refuse = (detail: string): never => {
    throw new StvError('architecture_unsupported', `The ONNX decoder "${path}" cannot be served: ${detail}`);
  };
  const floatType = ({ name, type }: SessionValue): 'float32' | 'float16' =>
    type === 'float32' || type === 'float16'
      ? type
      : refuse(`${name} must be float32 or float16, not ${type ?? 'of an unknown type'}.`);
  const outputs = new Map(session.outputs.map((value) => [value.name, value]));
  const inputs = new Map(session.inputs.map((value) => [value.name, value]));
  for (const name of ['input_ids', 'attention_mask']) {
    if (!inputs.has(name)) refuse(`it has no input ${name}.`);
  }
  for (const name of ['input_ids', 'attention_mask', 'position_ids']) {
    const type = inputs.get(name)?.type;
    if (inputs.has(name) && type !== 'int64') refuse(`${name} must be int64, not ${type ?? 'of an unknown type'}.`);
  }
  const caches: OnnxCache[] = [];
  for (const input of session.inputs) {
    if (['input_ids', 'attention_mask', 'position_ids'].includes(input.name)) continue;
    const [, layer, part] = PAST.exec(input.name) ?? refuse(`it asks for ${input.name}, which is not known here.`);
    const present = `present.${layer}.${part}`;
    if (!outputs.has(present)) refuse(`it gives no ${present} for ${input.name}.`);
    const [, numHeads, , headDim] = input.dims ?? [];
    if (typeof numHeads !== 'number' || typeof headDim !== 'number') {
      return refuse(`${input.name} does not say its number of heads and their size.`);
    }
    caches.push({ past: input.name, present, type: floatType(input), numHeads, headDim });
  }
  if (caches.length === 0) refuse('it has no past_key_values.');
  const logits = outputs.get('logits') ?? refuse('it gives no logits.');
  if (logits.dims?.[1] === 1) refuse('it gives the logits of the last token only.');
  return { caches, hasPositions: inputs.has('position_ids'), logitsType: floatType(logits) };
}
