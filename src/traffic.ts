/** Counts requests that are being answered, so that a shutdown can wait for them. */
export class Traffic {
  #count = 0;
  readonly #waiting = new Set<() => void>();

  get count(): number {
    return this.#count;
  }

  /** Call what it returns when the request is over; a second call does nothing. */
  enter(): () => void {
    this.#count += 1;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#count -= 1;
      if (this.#count === 0) for (const settle of [...this.#waiting]) settle();
    };
  }

  /** Resolves when nothing is being answered, or after `limitMs`. */
  async idle(limitMs: number): Promise<void> {
    if (this.#count === 0) return;
    await new Promise<void>((resolve) => {
      const settle = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(settle);
        resolve();
      };
      const timer = setTimeout(settle, limitMs);
      this.#waiting.add(settle);
    });
  }
}
