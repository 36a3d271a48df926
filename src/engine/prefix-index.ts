/**
 * A radix tree over token prefixes: which slots hold (or are about to hold) how much of a prompt. Knows tokens and slot
 * numbers only; what is computed, used or old is the slot manager's business.
 */

interface Node {
  /** Edge from the parent, at least one token except for the root. */
  label: Int32Array;
  parent: Node | undefined;
  /** By the first token of the child's label. */
  readonly children: Map<number, Node>;
  /** Slots whose tokens run through this whole node. A child's slots are a subset of its parent's. */
  readonly slots: Set<number>;
}

export class PrefixIndex {
  readonly #root: Node = { label: new Int32Array(0), parent: undefined, children: new Map(), slots: new Set() };
  /** Node at which each slot's tokens end. */
  readonly #leafOf = new Map<number, Node>();

  has(slot: number): boolean {
    return this.#leafOf.has(slot);
  }

  /** Replaces what the index knew of the slot. Tokens are copied. An empty prefix only removes it. */
  set(slot: number, tokens: Int32Array): void {
    this.remove(slot);
    if (tokens.length === 0) return;
    let node = this.#root;
    let depth = 0;
    while (depth < tokens.length) {
      const child = node.children.get(tokens[depth] as number); // depth < tokens.length
      if (child === undefined) {
        const leaf: Node = { label: tokens.slice(depth), parent: node, children: new Map(), slots: new Set() };
        node.children.set(tokens[depth] as number, leaf);
        node = leaf;
        depth = tokens.length;
      } else {
        const shared = commonLength(child.label, tokens, depth);
        node = shared === child.label.length ? child : split(child, shared);
        depth += shared;
      }
      node.slots.add(slot);
    }
    this.#leafOf.set(slot, node);
  }

  remove(slot: number): void {
    let node = this.#leafOf.get(slot);
    if (node === undefined) return;
    this.#leafOf.delete(slot);
    while (node !== undefined && node !== this.#root) {
      const parent: Node | undefined = node.parent;
      node.slots.delete(slot);
      if (node.slots.size === 0)
        parent?.children.delete(node.label[0] as number); // labels are never empty
      else this.#mergeWithOnlyChild(node);
      node = parent;
    }
  }

  /**
   * Calls `visit` once for every slot that shares at least one token with the beginning of `tokens`, the longest matches first.
   * @returns the longest match
   */
  match(tokens: Int32Array, visit: (slot: number, length: number) => void): number {
    const path: { node: Node; length: number }[] = [];
    let node = this.#root;
    let depth = 0;
    while (depth < tokens.length) {
      const child = node.children.get(tokens[depth] as number); // depth < tokens.length
      if (child === undefined) break;
      const shared = commonLength(child.label, tokens, depth);
      depth += shared;
      path.push({ node: child, length: depth });
      if (shared < child.label.length) break;
      node = child;
    }
    const seen = new Set<number>();
    for (let i = path.length - 1; i >= 0; i--) {
      const { node: visited, length } = path[i] as { node: Node; length: number }; // i is inside the path
      for (const slot of visited.slots) {
        if (seen.has(slot)) continue;
        seen.add(slot);
        visit(slot, length);
      }
    }
    return depth;
  }

  /** The tokens that the index holds for a slot. For checks. */
  tokensOf(slot: number): number[] {
    const labels: number[][] = [];
    for (let node = this.#leafOf.get(slot); node !== undefined; node = node.parent) labels.unshift([...node.label]);
    return labels.flat();
  }

  /** Throws if the tree is not what it says. For tests and idle moments. */
  checkIntegrity(): void {
    const visit = (node: Node): void => {
      for (const [first, child] of node.children) {
        if (child.parent !== node) throw new Error('A node of the prefix index has a wrong parent.');
        if (child.label.length === 0 || child.label[0] !== first)
          throw new Error('A node of the prefix index has a wrong label.');
        if (child.slots.size === 0) throw new Error('The prefix index kept a node that no slot needs.');
        for (const slot of child.slots) {
          if (node !== this.#root && !node.slots.has(slot))
            throw new Error(`The prefix index lost slot ${slot} on its way.`);
          if (!this.#leafOf.has(slot)) throw new Error(`The prefix index still names the removed slot ${slot}.`);
        }
        visit(child);
      }
    };
    visit(this.#root);
    for (const [slot, leaf] of this.#leafOf) {
      if (!leaf.slots.has(slot)) throw new Error(`The last node of slot ${slot} does not name it.`);
      for (const child of leaf.children.values()) {
        if (child.slots.has(slot)) throw new Error(`Slot ${slot} goes on behind its last node.`);
      }
    }
  }

  /** Undoes a split that no slot needs any more, so that long-lived slots do not crumble. */
  #mergeWithOnlyChild(node: Node): void {
    if (node.children.size !== 1) return;
    const [child] = node.children.values();
    if (child === undefined || child.slots.size !== node.slots.size) return;
    const label = new Int32Array(node.label.length + child.label.length);
    label.set(node.label);
    label.set(child.label, node.label.length);
    node.label = label;
    node.children.clear();
    for (const [first, grandchild] of child.children) {
      grandchild.parent = node;
      node.children.set(first, grandchild);
    }
    for (const slot of child.slots) if (this.#leafOf.get(slot) === child) this.#leafOf.set(slot, node);
  }
}

/** How many tokens of `label` equal `tokens` from `offset` on. */
function commonLength(label: Int32Array, tokens: Int32Array, offset: number): number {
  const limit = Math.min(label.length, tokens.length - offset);
  let length = 0;
  while (length < limit && label[length] === tokens[offset + length]) length++;
  return length;
}

/** Cuts a node's edge after `length` tokens and returns the new upper node; the lower one keeps its identity. */
function split(node: Node, length: number): Node {
  const upper: Node = {
    label: node.label.slice(0, length),
    parent: node.parent,
    children: new Map(),
    slots: new Set(node.slots),
  };
  node.parent?.children.set(upper.label[0] as number, upper); // length >= 1: the first token matched
  node.label = node.label.slice(length);
  node.parent = upper;
  upper.children.set(node.label[0] as number, node);
  return upper;
}
