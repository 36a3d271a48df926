// What a prompt costs that was read before, and what a long one does to the others: time to the first token of a miss and of a full hit, prompt
// tokens computed for 8 votes on one attempt, and the time between tokens of running streams while a long prompt is read.
import { complete, firstTokenMs, gapsOf, median, text } from './load.mjs';
import { startStv } from './servers.mjs';

const LONG = 1400; // words, about 1,900 tokens: SmolLM2's context holds 2,048

async function verify(url, body) {
  const answer = await fetch(`${url}/verify`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${url}/verify: ${answer.status} ${await answer.text()}`);
  return (await answer.json()).usage;
}

/** @param {{stvArgs: string[], log: (line: string) => void}} options */
export async function benchReuse({ stvArgs, log }) {
  const server = await startStv(stvArgs);
  let seed = 20_000;
  try {
    await complete(server.url, text(seed++, 60), { maxTokens: 8 });

    const misses = [];
    const hits = [];
    let tokens = 0;
    for (let round = 0; round < 3; round++) {
      const prompt = text(seed++, LONG);
      const missed = await complete(server.url, prompt, { maxTokens: 1 });
      tokens = missed.usage.prompt_tokens;
      misses.push(firstTokenMs(missed));
      hits.push(firstTokenMs(await complete(server.url, prompt, { maxTokens: 1 })));
    }
    log(
      `first token of a prompt of ${tokens} tokens: ${median(misses).toFixed(0)} ms, read before ${median(hits).toFixed(0)} ms = ${(median(hits) / median(misses)).toFixed(3)} (goal 0.15)`,
    );

    const computed = (usage) => usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens;
    const judged = () => ({ problem: 'Retell the story.', solution: text(seed++, LONG), max_tokens: 8, seed: 1 });
    const one = computed(await verify(server.url, judged()));
    const eight = computed(await verify(server.url, { ...judged(), votes: 8, early_stop: false }));
    log(
      `prompt tokens computed for one vote on an attempt ${one}, for 8 votes ${eight} = ${(eight / one).toFixed(2)} (goal 1.2)`,
    );

    const streams = () => Array.from({ length: 4 }, () => complete(server.url, text(seed++, 60), { maxTokens: 160 }));
    const alone = gapsOf(await Promise.all(streams()));
    const running = streams();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const long = await complete(server.url, text(seed++, LONG), { maxTokens: 1 });
    const beside = gapsOf(await Promise.all(running));
    log(
      `4 streams, between tokens: median ${median(alone).toFixed(0)} ms, at most ${Math.max(...alone).toFixed(0)} ms; while a prompt of ${long.usage.prompt_tokens} tokens is read (${firstTokenMs(long).toFixed(0)} ms) at most ${Math.max(...beside).toFixed(0)} ms`,
    );
  } finally {
    await server.stop();
  }
}
