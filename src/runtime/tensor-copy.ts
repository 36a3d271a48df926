/** Copies between tensors: within the process, to a device and back, and on a device. */

import { StvError } from '../errors.ts';
import { viewAsArray } from './memory.ts';
import type { RuntimeContext } from './runtime-context.ts';
import { countElements, type Tensor } from './tensor.ts';

const CUDA_PROVIDER_LIBRARY = {
  linux: 'libonnxruntime_providers_cuda.so',
  win32: 'onnxruntime_providers_cuda.dll',
} as Partial<Record<NodeJS.Platform, string>>;

/**
 * WebGPU brings its way to copy with it. The CUDA provider does so only once its library is registered with the environment
 * by name (a relative path is looked for beside the library itself); the environment then lives as long as the process.
 */
function ensureCudaCopies({ functions, library, env }: RuntimeContext): void {
  const name = CUDA_PROVIDER_LIBRARY[process.platform];
  if (library.canCopyCuda || name === undefined) return;
  functions.RegisterExecutionProviderLibrary(env.pointer, 'stv-cuda', name);
  env.retain();
  library.canCopyCuda = true;
}

/** Throws StvError `runtime_failed` when type or number of elements differ, or the device has no way to copy. */
export function copyTensor(context: RuntimeContext, from: Tensor, to: Tensor): void {
  if (from.type !== to.type || countElements(from.dims) !== countElements(to.dims)) {
    throw new StvError(
      'runtime_failed',
      `A ${from.type} tensor of [${from.dims.join(', ')}] cannot be copied to a ${to.type} tensor of [${to.dims.join(', ')}].`,
    );
  }
  for (const tensor of [from, to]) {
    if (!tensor.isUsable) throw new StvError('runtime_failed', 'A tensor that was disposed cannot be copied.');
  }
  if (from.location === 'cpu' && to.location === 'cpu') {
    const source = from.data;
    const target = to.data;
    viewAsArray('uint8', target.byteLength, target).set(viewAsArray('uint8', source.byteLength, source));
    return;
  }
  if (from.location === 'cuda' || to.location === 'cuda') ensureCudaCopies(context);
  if (from.location === 'webgpu' || to.location === 'webgpu') context.library.webGpuGate.assertFree();
  context.functions.CopyTensors(context.env.pointer, [from.handle.pointer], [to.handle.pointer], null, 1);
}
