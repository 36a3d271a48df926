/** What a check of `stv doctor` found. */

export interface Finding {
  readonly check: string;
  /** `fail`: serving will not work; `warn`: it may, less well or later. */
  readonly status: 'ok' | 'warn' | 'fail';
  readonly message: string;
}

export function ok(check: string, message: string): Finding {
  return { check, status: 'ok', message };
}

export function warn(check: string, message: string): Finding {
  return { check, status: 'warn', message };
}

export function fail(check: string, message: string): Finding {
  return { check, status: 'fail', message };
}
