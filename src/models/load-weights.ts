/**
 * `weights.bin` in memory, once for all graphs of a model. Each stored tensor has memory of its own: the whole may be more than the
 * 4 GiB that a typed array holds on some versions of Node.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { StvError } from '../errors.ts';
import { Placement } from '../runtime/placement.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Tensor } from '../runtime/tensor.ts';
import type { BuiltLaneGraph } from './build-lane-graph.ts';
import type { ExternalLocation } from './graph-builder.ts';
import { type PreparedManifest, type StoredTensor, WEIGHTS_FILE } from './prepared-model.ts';

interface LoadedTensor extends StoredTensor {
  readonly data: Uint8Array;
}

export class LoadedWeights {
  readonly #placement: Placement;
  readonly #stored = new Map<string, LoadedTensor>();
  readonly #tensors = new Map<string, Tensor>();

  /** Throws StvError `pack_invalid` when the file ends early, `runtime_failed` when there is no memory for it. */
  constructor(runtime: Runtime, dir: string, manifest: PreparedManifest, placement = new Placement(runtime, 'cpu')) {
    this.#placement = placement;
    const path = join(dir, WEIGHTS_FILE);
    const file = openSync(path, 'r');
    try {
      for (const tensor of manifest.tensors) {
        const { data } = runtime.createTensor('uint8', [tensor.byteLength]);
        readPart(file, { path, offset: tensor.offset, target: data });
        this.#stored.set(tensor.name, { ...tensor, data });
      }
    } finally {
      closeSync(file);
    }
  }

  /** For the graph's file: ONNX Runtime wants every initializer to have a place, also when its value is given. */
  locate = (name: string): ExternalLocation => {
    const { offset, byteLength } = this.#find(name);
    return { file: WEIGHTS_FILE, offset, byteLength };
  };

  /** Values of a graph's initializers. Graphs of one model get the same tensors, which lets them share packed weights. */
  initializers(graph: BuiltLaneGraph): ReadonlyMap<string, Tensor> {
    for (const { name, type, dims, stored } of graph.initializers) {
      if (this.#tensors.has(name)) continue;
      this.#tensors.set(name, this.#placement.uploadInitializer(type, dims, this.#find(stored).data));
    }
    return this.#tensors;
  }

  /** Sessions that were given the tensors keep them alive. */
  dispose(): void {
    for (const tensor of this.#tensors.values()) tensor.dispose();
  }

  #find(name: string): LoadedTensor {
    const stored = this.#stored.get(name);
    if (stored === undefined) {
      throw new StvError('pack_invalid', `The prepared model has no weight named "${name}"; prepare it again.`);
    }
    return stored;
  }
}

function readPart(
  file: number,
  { path, offset, target }: { readonly path: string; readonly offset: number; readonly target: Uint8Array },
): void {
  for (let done = 0; done < target.length; ) {
    const count = readSync(file, target, done, Math.min(target.length - done, 1 << 30), offset + done);
    if (count === 0) {
      throw new StvError('pack_invalid', `"${path}" ends at byte ${offset + done}, before ${offset + target.length}.`);
    }
    done += count;
  }
}
