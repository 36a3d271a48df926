// What a campaign found: figures, and checks that passed or failed. Printed as they come; the last line counts.

export class Report {
  passed = 0;
  failed = 0;

  section(title) {
    console.log(`\n== ${title}`);
  }

  /** A measured value, for the documentation. */
  figure(name, value) {
    console.log(`   ${name}: ${value}`);
  }

  /** A statement that must hold; `detail` is shown when it does not. */
  check(statement, holds, detail = '') {
    if (holds) this.passed += 1;
    else this.failed += 1;
    console.log(`${holds ? ' ok ' : 'FAIL'} ${statement}${holds || detail === '' ? '' : ` (${detail})`}`);
    return holds;
  }

  /** A part that this machine cannot run, and why; counts as neither. */
  skip(what, why) {
    console.log(` --  ${what}: not run, ${why}`);
  }
}

export function percentile(values, share) {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

export const milliseconds = (value) => `${Math.round(value)} ms`;

export const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Repeatable numbers from 0 to 1 (mulberry32): a campaign is repeated by its seed. */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks again and again; undefined where it never became true in time. */
export async function until(limitMs, ask, everyMs = 20) {
  const end = performance.now() + limitMs;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (performance.now() > end) return undefined;
    await sleep(everyMs);
  }
}
