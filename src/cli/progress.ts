/** Progress of long work on stderr: one line rewritten on a terminal, a line every few seconds elsewhere. */

export interface ProgressLine {
  /** `done` of `total` bytes or items; without a total only what is done is shown. */
  update(label: string, done: number, total: number | undefined, unit?: 'bytes' | 'items'): void;
  /** Ends the line that is being rewritten. */
  finish(): void;
}

const logIntervalMs = 3000;

export function createProgressLine(
  stream: NodeJS.WriteStream = process.stderr,
  now: () => number = Date.now,
): ProgressLine {
  let lastAt = Number.NEGATIVE_INFINITY;
  let lastLabel = '';
  let isOpen = false;
  return {
    update(label, done, total, unit = 'bytes') {
      const isNew = label !== lastLabel;
      const isComplete = total !== undefined && done >= total;
      const interval = stream.isTTY ? 100 : logIntervalMs;
      if (!isNew && !isComplete && now() - lastAt < interval) return;
      if (isNew && isOpen) stream.write('\n');
      lastAt = now();
      lastLabel = label;
      const text = `${label}  ${amount(done, total, unit)}`;
      isOpen = stream.isTTY === true;
      stream.write(stream.isTTY ? `\r\u001b[K${text}` : `${text}\n`);
    },
    finish() {
      if (isOpen) stream.write('\n');
      isOpen = false;
      lastLabel = '';
    },
  };
}

function amount(done: number, total: number | undefined, unit: 'bytes' | 'items'): string {
  const show = (value: number): string => (unit === 'bytes' ? `${(value / 1e6).toFixed(1)} MB` : String(value));
  if (total === undefined || total === 0) return show(done);
  return `${Math.floor((100 * done) / total)} %  (${show(done)} of ${show(total)})`;
}
