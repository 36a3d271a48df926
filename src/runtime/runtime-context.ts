/** What the objects of one runtime share; for the files of this folder. */

import type { NativeHandle } from './native-handle.ts';
import type { OrtFunctions } from './ort-functions.ts';
import type { OrtLibrary } from './ort-library.ts';

export interface RuntimeContext {
  readonly library: OrtLibrary;
  readonly functions: OrtFunctions;
  readonly env: NativeHandle;
  /** The environment has threads for the sessions that bring none of their own. */
  readonly hasSharedThreads: boolean;
  readonly cpuMemory: NativeHandle;
  /** The default CPU allocator; belongs to the library. */
  readonly allocator: bigint;
  readonly throwStatus: (functionName: string, status: bigint) => never;
}
