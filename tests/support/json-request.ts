/** Requests with JSON bodies, and answers whose fields a test reads without declaring them. */
export type Json = Record<string, any>;

export function postJson(url: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(url, {
    ...init,
    method: 'POST',
    headers: { 'content-type': 'application/json', ...init.headers },
    body: JSON.stringify(body),
  });
}

export async function readJson(answer: Response): Promise<Json> {
  return (await answer.json()) as Json;
}
