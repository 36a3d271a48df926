// Checks src/runtime/ort-api-table.ts and the signatures of src/runtime/ort-functions.ts against a C header of ONNX Runtime:
//   node scripts/ort-api-table.mjs path/to/onnxruntime_c_api.h            says whether the two agree
//   node scripts/ort-api-table.mjs path/to/onnxruntime_c_api.h --write    takes the names over from the header
// The table only ever grows at its end, so a header of an older or a newer version must agree as far as both go.
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const LINE_WIDTH = 118;
const tableFile = fileURLToPath(new URL('../src/runtime/ort-api-table.ts', import.meta.url));
const tablePattern = /(ORT_API_NAMES: readonly string\[\] = `\n)([\w\s]+)(\n`)/u;

const functionsFile = fileURLToPath(new URL('../src/runtime/ort-functions.ts', import.meta.url));

/** The text of struct OrtApi without comments. */
function apiStruct(text) {
  const code = text.replace(/\/\*.*?\*\/|\/\/[^\n]*/gsu, '');
  const start = code.search(/struct OrtApi \{/u);
  if (start < 0) throw new Error('The header has no struct OrtApi.');
  return code.slice(start, code.indexOf('\n};', start));
}

function namesInHeader(body) {
  const entry =
    /ORT_API2_STATUS\(\s*(\w+)|ORT_API_T\([^,]+,\s*(\w+)|ORT_CLASS_RELEASE\(\s*(\w+)|\(\s*ORT_API_CALL\s*\*\s*(\w+)\s*\)/gu;
  return Array.from(body.matchAll(entry), ([, status, typed, released, plain]) =>
    released === undefined ? (status ?? typed ?? plain) : `Release${released}`,
  );
}

/** The letter that ort-functions.ts has for a C parameter. */
function letterOf(parameter) {
  const type = parameter.replace(/_\w+_(?:\([^)]*\))?\s|\bconst\b|\b\w+$/gu, '').replace(/\s+/gu, '');
  if (parameter.endsWith(']')) return 'p';
  if (/^char\*\*$/u.test(type) && /_In.*\bconst\b/su.test(parameter)) return 'a';
  if (/^OrtValue\*\*$/u.test(type) && parameter.includes('_In')) return 'h';
  if (/^ORTCHAR_T\*$/u.test(type)) return 'f';
  if (/^char\*$/u.test(type)) return 's';
  if (type.endsWith('*')) return 'p';
  return { size_t: 'z', int64_t: 'l' }[type] ?? 'i';
}

/** What disagrees between the signatures of ours and the header. */
function wrongSignatures(body, ours) {
  const wrong = [];
  for (const [, name, signature] of ours.matchAll(/^ {2}(\w+): '([a-z]*)',/gmu)) {
    const released = name.startsWith('Release') ? name.slice('Release'.length) : undefined;
    const isRelease = released !== undefined && new RegExp(`ORT_CLASS_RELEASE\\(\\s*${released}\\)`, 'u').test(body);
    const parameters = body.match(
      new RegExp(
        `(?:ORT_API2_STATUS\\(\\s*${name},|ORT_API_CALL\\s*\\*\\s*${name}\\s*\\)\\()([^;]*?)\\)(?: NO_EXCEPTION)?(?: ORT_\\w+)*;`,
        'u',
      ),
    )?.[1];
    if (!isRelease && parameters === undefined) {
      wrong.push(`${name} is not in the header.`);
      continue;
    }
    const expected = isRelease
      ? 'p'
      : parameters
          .split(/,(?![^(]*\))/u)
          .map((p) => letterOf(p.trim()))
          .join('');
    if (expected !== signature) wrong.push(`${name} is '${expected}' in the header and '${signature}' here.`);
  }
  return wrong;
}

function lines(names) {
  const rows = [''];
  for (const name of names) {
    const row = rows.at(-1) === '' ? `  ${name}` : `${rows.at(-1)} ${name}`;
    if (row.length <= LINE_WIDTH) rows[rows.length - 1] = row;
    else rows.push(`  ${name}`);
  }
  return rows.join('\n');
}

const [header, flag] = process.argv.slice(2);
if (header === undefined) {
  process.stderr.write('Name the header onnxruntime_c_api.h.\n');
  process.exit(2);
}
const body = apiStruct(readFileSync(header, 'utf8'));
const fromHeader = namesInHeader(body);
const source = readFileSync(tableFile, 'utf8');
const fromTable = source.match(tablePattern)?.[2]?.trim().split(/\s+/u) ?? [];

if (flag === '--write') {
  writeFileSync(tableFile, source.replace(tablePattern, `$1${lines(fromHeader)}$3`));
  process.stdout.write(`The table now has the ${fromHeader.length} functions of the header.\n`);
} else {
  const shared = Math.min(fromHeader.length, fromTable.length);
  for (let index = 0; index < shared; index++) {
    if (fromHeader[index] === fromTable[index]) continue;
    process.stderr.write(
      `Entry ${index} is ${fromHeader[index]} in the header and ${fromTable[index]} in the table.\n`,
    );
    process.exit(1);
  }
  const wrong = wrongSignatures(body, readFileSync(functionsFile, 'utf8'));
  if (wrong.length > 0) {
    process.stderr.write(`${wrong.join('\n')}\n`);
    process.exit(1);
  }
  process.stdout.write(
    `Signatures agree. Header (${fromHeader.length} functions) and table (${fromTable.length}) agree in the first ${shared}.\n`,
  );
}
