/** The server's clock as its answers tell it: that of this machine may be minutes off. */

/** What the server's clock is ahead of this machine's. */
let offsetMs = 0;

/** `fetch` that takes the difference from the Date header of each answer, so it is right to a second. */
export async function timedFetch(...call: Parameters<typeof fetch>): Promise<Response> {
  const response = await fetch(...call);
  const date = Date.parse(response.headers.get('date') ?? '');
  if (!Number.isNaN(date)) offsetMs = date - Date.now();
  return response;
}

/** Milliseconds since the epoch, by this machine's clock until the first answer. */
export function serverNow(): number {
  return Date.now() + offsetMs;
}
