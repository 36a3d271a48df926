/** How long the end of a server waits for its database: one budget for all that is told to it. */

/** A database that fails or does not answer takes no time from requests that need none: leases lapse by themselves. */
export class StoreGrace {
  #leftMs = 10_000;

  /** Waits for `work`, and gives up, also where it fails, once the budget is used up. Says so on stderr. */
  async orGiveUp(work: Promise<void>): Promise<void> {
    const startedAt = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error('it does not answer')), this.#leftMs);
    });
    try {
      await Promise.race([work, late]);
    } catch (thrown) {
      const why = thrown instanceof Error ? thrown.message : String(thrown);
      process.stderr.write(
        `The store could not be told that this server ends, others take its runs over later: ${why}\n`,
      );
    } finally {
      clearTimeout(timer);
      this.#leftMs = Math.max(0, this.#leftMs - (performance.now() - startedAt));
    }
  }
}
