/** How much memory another process holds, as the system counts it. */
import { readFileSync } from 'node:fs';

/** Resident bytes of a process; undefined where it is gone or the system does not tell (only Linux does, here). */
export function residentBytesOf(pid: number | undefined): number | undefined {
  if (pid === undefined) return undefined;
  try {
    const kibibytes = /^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return kibibytes === undefined ? undefined : Number(kibibytes) * 1024;
  } catch {
    return undefined;
  }
}
