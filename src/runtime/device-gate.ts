/**
 * Keeps the process to one WebGPU call at a time: Dawn ends the process when two threads use it, also through two sessions.
 * A run on another thread holds the gate; whatever else would touch the device meanwhile is refused, or waits if it is a release.
 */

import { StvError } from '../errors.ts';

export class DeviceGate {
  #isHeld = false;
  #waiting: (() => void)[] = [];

  /** Throws StvError `runtime_failed` while a run holds the gate. */
  assertFree(): void {
    if (this.#isHeld) throw new StvError('runtime_failed', 'Another WebGPU run of this process has not ended.');
  }

  hold(): void {
    this.assertFree();
    this.#isHeld = true;
  }

  /** Opens the gate, then does what has waited for it, in the order it came. */
  leave(): void {
    this.#isHeld = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const release of waiting) release();
  }

  /** Calls `release` now, or when the run that holds the gate has ended. */
  whenFree(release: () => void): void {
    if (this.#isHeld) this.#waiting.push(release);
    else release();
  }
}
