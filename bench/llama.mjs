// Our server beside llama-server, through HTTP on both sides: int8 weights beside llama.cpp's fast requantizations of the same GGUF, and
// int4 weights that are the very blocks of its Q4_0 file.
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
  const gguf = (format) => path.join(ggufDir, `SmolLM2-135M-Instruct.${format}.gguf`);
  const peer = (format) => startLlama(binary, gguf(format), { parallel: 16, context: 2048, threads });
  const ours = [
    { name: 'stv int8', start: () => startStv(stvArgs) },
    { name: 'stv int4', start: () => startStv([...stvArgs, '--weights', 'int4'], gguf('Q4_0')) },
  ];
  const peers = ['Q8_0', 'Q4_0'].map((format) => ({ name: `llama ${format}`, start: () => peer(format) }));
  const contenders = [...ours, ...peers];
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
  const medians = ({ name }) => [...figures.get(name).decode.map(median), median(figures.get(name).prefill)];
  const line = (name, values, unit, digits) =>
    log(name.padEnd(28) + values.map((value) => `${value.toFixed(digits)}${unit}`.padStart(11)).join(''));
  log('tokens per second (median)    decode 1   decode 8  decode 16    prefill');
  for (const contender of contenders) line(contender.name, medians(contender), '', 0);
  for (const our of ours) {
    for (const their of peers) {
      const theirs = medians(their);
      line(
        `${our.name} / ${their.name}`,
        medians(our).map((value, at) => value / theirs[at]),
        'x',
        2,
      );
    }
  }
}
