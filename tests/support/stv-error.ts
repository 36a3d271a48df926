import { expect } from 'vitest';
import { type ErrorCode, StvError } from '../../src/errors.ts';

/** Runs `action`, which must throw an StvError with this code whose message holds all the parts; returns it. */
export function expectStvError(action: () => unknown, code: ErrorCode, ...parts: readonly string[]): StvError {
  let thrown: unknown;
  try {
    action();
  } catch (error) {
    thrown = error;
  }
  expect(thrown, 'the action did not throw an StvError').toBeInstanceOf(StvError);
  const error = thrown as StvError;
  expect(error.code).toBe(code);
  for (const part of parts) expect(error.message).toContain(part);
  return error;
}
