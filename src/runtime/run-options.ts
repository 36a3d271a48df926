/** Options of one run, as an OrtRunOptions that lives for that run. */

import type { OrtFunctions } from './ort-functions.ts';
import { takePointer } from './out-parameter.ts';

export interface RunOptions {
  /** Stands in the runtime's log lines and profile. */
  readonly tag?: string;
  /** Run config entries by ONNX Runtime's names, such as `gpu_graph_id`. */
  readonly config?: Readonly<Record<string, string>>;
}

/** Calls `use` with an OrtRunOptions, and releases it when the result, or the promise of it, is there. */
export function withRunOptions<Result>(
  functions: OrtFunctions,
  options: RunOptions,
  use: (pointer: bigint) => Result,
): Result {
  const pointer = takePointer((out) => functions.CreateRunOptions(out));
  let isPending = false;
  try {
    if (options.tag !== undefined) functions.RunOptionsSetRunTag(pointer, options.tag);
    for (const [name, value] of Object.entries(options.config ?? {})) functions.AddRunConfigEntry(pointer, name, value);
    const result = use(pointer);
    if (result instanceof Promise) {
      isPending = true;
      return result.finally(() => functions.ReleaseRunOptions(pointer)) as Result;
    }
    return result;
  } finally {
    if (!isPending) functions.ReleaseRunOptions(pointer);
  }
}
