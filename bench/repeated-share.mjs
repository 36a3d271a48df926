/**
 * Share of a text's tokens that it repeats from an earlier one, in order (their longest common subsequence): what an edit of the
 * earlier text would leave in place.
 * @param {ArrayLike<number>} tokens @param {ArrayLike<number>} earlier
 */
export function repeatedShare(tokens, earlier) {
  let row = new Int32Array(earlier.length + 1);
  for (let i = 0; i < tokens.length; i++) {
    const next = new Int32Array(earlier.length + 1);
    for (let j = 0; j < earlier.length; j++) {
      next[j + 1] = tokens[i] === earlier[j] ? row[j] + 1 : Math.max(row[j + 1], next[j]);
    }
    row = next;
  }
  return tokens.length === 0 ? 0 : row[earlier.length] / tokens.length;
}
