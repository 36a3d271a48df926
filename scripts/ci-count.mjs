// Adds up what the steps of .ci/run left in a folder: `*.step` (passed or failed), vitest's JSON and JUnit XML (pytest).
// Prints each failed step and test with its message, then the one closing line; exits 1 when anything failed or nothing ran.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const folder = process.argv[2];
if (folder === undefined) throw new Error('usage: ci-count.mjs FOLDER');
const total = { passed: 0, failed: 0, skipped: 0 };

/** Sum of one attribute over all <testsuite> elements of a JUnit file. */
function attribute(xml, name) {
  return [...xml.matchAll(/<testsuite [^>]*>/g)].reduce(
    (sum, [tag]) => sum + Number(new RegExp(` ${name}="(\\d+)"`).exec(tag)?.[1] ?? 0),
    0,
  );
}

/** One failed test, its message cut: what one needs when only the end of a long output is at hand. */
function printFailure(name, message) {
  const plain = stripVTControlCharacters(message).trim().split('\n').slice(0, 12);
  console.log([`failed test: ${name}`, ...plain].join('\n    '));
}

for (const file of readdirSync(folder).sort()) {
  const text = readFileSync(path.join(folder, file), 'utf8');
  if (file.endsWith('.step')) {
    if (text.trim() === 'passed') total.passed += 1;
    else {
      total.failed += 1;
      console.log(`failed step: ${file}`);
    }
  } else if (file.endsWith('.json')) {
    const report = JSON.parse(text);
    total.passed += report.numPassedTests;
    total.failed += report.numFailedTests;
    total.skipped += report.numPendingTests + (report.numTodoTests ?? 0);
    for (const { name, message, assertionResults } of report.testResults) {
      const failed = assertionResults.filter(({ status }) => status === 'failed');
      for (const test of failed)
        printFailure(`${path.relative('', name)} > ${test.fullName}`, test.failureMessages.join('\n'));
      if (failed.length === 0 && message) printFailure(path.relative('', name), message);
    }
  } else if (file.endsWith('.xml')) {
    const bad = attribute(text, 'failures') + attribute(text, 'errors');
    const skipped = attribute(text, 'skipped');
    total.passed += attribute(text, 'tests') - bad - skipped;
    total.failed += bad;
    total.skipped += skipped;
    for (const [, tag, message] of text.matchAll(/<testcase ([^>]*)><(?:failure|error) message="([^"]*)"/g))
      printFailure(/ name="([^"]*)"/.exec(` ${tag}`)?.[1] ?? tag, message.replaceAll('&#10;', '\n'));
  }
}

console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0);
