// Arrivals by a clock that waits for nobody: what users do who do not know that a server is busy.
import { randomOf, sleep } from './report.mjs';

/**
 * Calls `arrive(n)` at the times of a Poisson process of `perSecond` for `seconds`, whatever became of the calls before.
 * Resolves with what they gave, once the last has ended; one that is late (the loop was busy) is made up for at once.
 */
export async function openLoop({ perSecond, seconds, seed }, arrive) {
  const random = randomOf(seed);
  const begun = performance.now();
  const calls = [];
  for (let at = 0; ; ) {
    at += (-Math.log(1 - random()) / perSecond) * 1000;
    if (at > seconds * 1000) break;
    const early = at - (performance.now() - begun);
    if (early > 1) await sleep(early);
    calls.push(arrive(calls.length));
  }
  const rest = seconds * 1000 - (performance.now() - begun);
  if (rest > 0) await sleep(rest);
  return Promise.all(calls);
}

/** So many callers, each with one call at a time, for `seconds`; resolves with what they gave. */
export async function closedLoop({ callers, seconds }, call) {
  const endsAt = performance.now() + seconds * 1000;
  const results = [];
  let next = 0;
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (performance.now() < endsAt) results.push(await call(next++));
    }),
  );
  return results;
}
