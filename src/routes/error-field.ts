/** Failures from below a route, about the field that its client wrote: the engine and the loop know names of their own. */
import { StvError } from '../errors.ts';

/** The same failure about `param`; what is none of ours stays as it is. `words` take the place of its message. */
export function aboutField(thrown: unknown, param: string, words?: string): unknown {
  if (!(thrown instanceof StvError)) return thrown;
  const { code, message, retryAfterMs, limit } = thrown;
  return new StvError(code, words ?? message, {
    param,
    cause: thrown,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    ...(limit === undefined ? {} : { limit }),
  });
}

/** For ids of tokens that the model does not have: under which name they came, the engine does not know. Always throws. */
export function blameTokens(param: string): (thrown: unknown) => never {
  return (thrown) => {
    const isTheirs = thrown instanceof StvError && thrown.code === 'invalid_value';
    throw isTheirs ? aboutField(thrown, param) : thrown;
  };
}
