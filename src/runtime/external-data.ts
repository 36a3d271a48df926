/** Where the tensors of an ONNX file lie that are not in it, so that what is hashed is what ONNX Runtime will read. */
import { FileFields } from './file-fields.ts';
import { endOfMessage, type FieldReader, readFields } from './model-initializers.ts';

type Message = 'model' | 'graph' | 'function' | 'node' | 'attribute' | 'sparse' | 'tensor';

/** Fields of the public ONNX schema on the way from a model to its tensors; constants and inner graphs have some as well. */
const WAYS: { readonly [message in Message]: { readonly [field: number]: Message } } = {
  model: { 7: 'graph', 25: 'function' },
  graph: { 1: 'node', 5: 'tensor', 15: 'sparse' },
  function: { 7: 'node', 11: 'attribute' },
  node: { 5: 'attribute' },
  attribute: { 5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse', 23: 'sparse' },
  sparse: { 1: 'tensor', 2: 'tensor' },
  tensor: {},
};

/** Of `TensorProto`: 13 external_data, 14 data_location, whose 1 is EXTERNAL. */
const EXTERNAL_DATA = 13;
const DATA_LOCATION = 14;
const EXTERNAL = 1;

/** As the file spells them: paths beside the file, if it means well. Throws whatever reading a broken file throws. */
export function externalLocations(file: string): ReadonlySet<string> {
  const found = new Set<string>();
  const reader = new FileFields(file);
  try {
    walk(reader, { message: 'model', end: reader.len }, found);
  } finally {
    reader.close();
  }
  return found;
}

function walk(
  reader: FieldReader,
  { message, end }: { readonly message: Message; readonly end: number },
  found: Set<string>,
): void {
  if (message === 'tensor') {
    walkTensor(reader, end, found);
    return;
  }
  readFields(reader, end, (field, wireType) => {
    const inner = WAYS[message][field];
    if (inner === undefined || wireType !== 2) return false;
    walk(reader, { message: inner, end: endOfMessage(reader) }, found);
    return true;
  });
}

function walkTensor(reader: FieldReader, end: number, found: Set<string>): void {
  const locations: string[] = [];
  let isExternal = false;
  readFields(reader, end, (field, wireType) => {
    if (field === EXTERNAL_DATA && wireType === 2) locations.push(...locationsIn(reader));
    else if (field === DATA_LOCATION && wireType === 0) isExternal = reader.int32() === EXTERNAL;
    else return false;
    return true;
  });
  if (isExternal) for (const location of locations) found.add(location);
}

/** `StringStringEntryProto`: 1 key, 2 value. */
function locationsIn(reader: FieldReader): readonly string[] {
  const entry = ['', ''];
  readFields(reader, endOfMessage(reader), (field) => {
    if (field !== 1 && field !== 2) return false;
    entry[field - 1] = reader.string();
    return true;
  });
  const [key, value = ''] = entry;
  return key === 'location' ? [value] : [];
}
