// Prints the shell commands of one marked block of README.md, so that CI and the tests run the very lines people read.
// A block is marked by a comment on the line before its fence: <!-- commands: NAME -->
import { readFileSync } from 'node:fs';

const name = process.argv[2];
const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const block = new RegExp(`<!-- commands: ${name} -->\\s*\`\`\`sh\\n([\\s\\S]*?)\`\`\``).exec(readme);
if (name === undefined || block === null) {
  process.stderr.write(`README.md has no block of commands named ${name}.\n`);
  process.exit(2);
}
process.stdout.write(block[1]);
