// Our server beside llama-server, through HTTP on both sides, same weights (llama.cpp's fast requantizations of the same GGUF).
// One server is busy at a time; the rounds alternate, and each figure is the median over rounds, each ratio that of the medians.
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { decodeRate, median, prefillRate, text } from './load.mjs';
import { startLlama, startStv } from './servers.mjs';

const widths = [1, 8, 16];

/** @param {{llamaDir: string, ggufDir: string, rounds: number, stvArgs: string[], log: (line: string) => void}} options */
export async function benchLlama({ llamaDir, ggufDir, rounds, stvArgs, log }) {
  const binary = path.join(llamaDir, 'llama-server');
  const threads = availableParallelism();
  const peer = (file) => startLlama(binary, path.join(ggufDir, file), { parallel: 16, context: 2048, threads });
  const contenders = [
    { name: 'stv', start: () => startStv(stvArgs) },
    { name: 'llama Q8_0', start: () => peer('SmolLM2-135M-Instruct.Q8_0.gguf') },
    { name: 'llama Q4_0', start: () => peer('SmolLM2-135M-Instruct.Q4_0.gguf') },
  ];
  const figures = new Map(contenders.map(({ name }) => [name, { decode: widths.map(() => []), prefill: [] }]));
  const running = [];
  for (const contender of contenders) running.push({ ...contender, server: await contender.start() });
  let seed = 1;
  try {
    for (const { server } of running) await decodeRate(server.url, [text(seed++, 60)], 16);
    for (let round = 0; round < rounds; round++) {
      for (const { name, server } of running) {
        const own = figures.get(name);
        for (const [index, width] of widths.entries()) {
          const prompts = Array.from({ length: width }, () => text(seed++, 80));
          own.decode[index].push((await decodeRate(server.url, prompts, 160)).tokensPerSecond);
        }
        own.prefill.push(await prefillRate(server.url, [text(seed++, 700), text(seed++, 700)]));
      }
      log(`round ${round + 1} of ${rounds} done`);
    }
  } finally {
    for (const { server } of running) await server.stop();
  }
  const rows = contenders.map(({ name }) => {
    const own = figures.get(name);
    return [name, ...own.decode.map(median), median(own.prefill)];
  });
  const [ours, ...peers] = rows;
  log('tokens per second (median)    decode 1   decode 8  decode 16    prefill');
  for (const [name, ...values] of rows)
    log(`${name.padEnd(28)}${values.map((v) => v.toFixed(0).padStart(11)).join('')}`);
  for (const [name, ...values] of peers) {
    log(`stv / ${name.padEnd(22)}${values.map((v, i) => `${(ours[i + 1] / v).toFixed(2)}x`.padStart(11)).join('')}`);
  }
  return rows;
}
