// node bench/record-refinements.mjs MODEL_DIR : writes bench/refinements.json, what bench/drafting.mjs replays. Every text in it was
// written by SmolLM2-135M-Instruct: an attempt at a word problem, then refinements of it in the words of the pack's prompt. Kept are
// those that repeat between a half and nine tenths of their tokens from the attempt, as many below as above 70 %.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { repeatedShare } from './repeated-share.mjs';
import { root } from './servers.mjs';

const dist = (file) => import(pathToFileURL(path.join(root, 'dist', file)).href);
const [{ startLocalEngine }, { Template }] = await Promise.all([
  dist('engine/local-engine.js'),
  import('@huggingface/jinja'),
]);
const prompt = (name) => new Template(readFileSync(path.join(root, 'packs/smollm2/prompts', `${name}.jinja`), 'utf8'));
const [generate, refine] = [prompt('generate'), prompt('refine')];

const problems = [
  'A baker makes 12 trays of 8 rolls. She sells 57 rolls. How many rolls are left?',
  'A train travels 60 km per hour for 3 hours and then 80 km per hour for 2 hours. How far does it travel?',
  'Tom has 45 marbles. He gives 12 to Ann and then buys 3 bags of 9 marbles. How many marbles has he now?',
  'A garden is 14 m long and 9 m wide. A path takes 26 square metres of it. What area is left?',
  'A book costs 15 dollars and a pen costs 4 dollars. What do 3 books and 5 pens cost together?',
  'A tank holds 240 litres. Each minute 6 litres run out. How many litres are left after 25 minutes?',
  'In a class of 30 pupils two fifths play football and a third play chess. How many play neither?',
  'Lisa reads 18 pages a day for 7 days. The book has 200 pages. How many pages are left?',
  'A box holds 6 rows of 11 eggs. 9 eggs are broken. How many whole eggs are there?',
  'A shop sells 125 apples on Monday and twice as many on Tuesday. How many apples does it sell?',
  'A rope of 84 m is cut into 7 equal pieces. How long are 4 pieces together?',
  'Sam earns 14 dollars an hour. He works 6 hours a day for 5 days. How much does he earn?',
];
const feedbacks = [
  'The first steps hold. The last calculation is wrong: do it again.',
  'Step 2 uses a wrong number. Read the problem again and correct this step only.',
  'Every step holds, but the final answer is not inside a box.',
];

const engine = await startLocalEngine({
  models: [{ name: 'smollm2', aliases: [], digest: '', dir: process.argv[2] }],
});
async function write(messages, seed, temperature) {
  const sampling = { temperature, topK: 0, topP: 0.95, minP: 0, seed };
  const penalties = { presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1 };
  const request = { id: 'record', model: 'smollm2', prompt: { kind: 'chat', messages }, maxTokens: 240, stop: [] };
  let text = '';
  const events = engine.generate({ ...request, priority: 'batch', sampling: { ...sampling, ...penalties } });
  for await (const event of events) if (event.type === 'delta') text += event.text;
  return text;
}

const found = [];
await Promise.all(
  problems.map(async (problem, index) => {
    const asked = { role: 'user', content: generate.render({ problem }) };
    const attempt = await write([asked], index, 0.7);
    for (const [kind, feedback] of feedbacks.entries()) {
      const told = { role: 'user', content: refine.render({ feedback, verdict: 'reject' }) };
      const messages = [asked, { role: 'assistant', content: attempt }, told];
      for (let seed = 0; seed < 2; seed++) {
        const refinement = await write(messages, 100 * kind + seed, 0.4);
        const share = repeatedShare(
          await engine.tokenize('smollm2', refinement),
          await engine.tokenize('smollm2', attempt),
        );
        found.push({ problem, attempt, feedback, refinement, share });
      }
    }
  }),
);
await engine.close();

const usable = found.filter(({ share, refinement }) => share >= 0.5 && share <= 0.9 && refinement.length > 300);
const byShare = (a, b) => Math.abs(a.share - 0.7) - Math.abs(b.share - 0.7);
const [below, above] = [usable.filter(({ share }) => share < 0.7), usable.filter(({ share }) => share >= 0.7)];
const count = Math.min(below.length, above.length, 4);
const kept = [below, above].flatMap((part) => part.sort(byShare).slice(0, count));
const records = kept.map(({ problem, attempt, feedback, refinement }) => ({ problem, attempt, feedback, refinement }));
writeFileSync(path.join(root, 'bench/refinements.json'), `${JSON.stringify(records, null, 2)}\n`);
console.log(`${found.length} refinements, ${usable.length} usable, ${records.length} kept`);
console.log(
  found
    .map(({ share }) => share.toFixed(2))
    .sort()
    .join(' '),
);
