/**
 * Guesses what a sequence says next, from what it has been told: the predicted text (an earlier attempt, OpenAI's `prediction`),
 * the prompt, and its own output. The longest run of last tokens that stands there too decides, and what followed there is the
 * guess. Remembers how often guesses of each kind came true in this sequence. Tokens and numbers only; verifying is the core's.
 */

/** A guess of the next tokens. */
export interface Draft {
  /** A view of the source, valid until the sequence grows. */
  readonly tokens: Int32Array;
  /** How many of the last tokens stood before it in the source; 0 = only the place in the prediction speaks for it. */
  readonly matchLength: number;
  readonly isPredicted: boolean;
}

/** Shorter runs of tokens stand everywhere by chance. */
const MIN_MATCH = 2;
/** Longer ones say nothing more. */
const MAX_MATCH = 32;
/** Of a prompt and output longer than this only the end is searched: the search costs about a microsecond per thousand tokens. */
const MAX_SEARCHED = 8192;
/** Least weight of the newest observation in the running share of guesses that came true. */
const LEARNING_RATE = 0.15;
/** So many observations is the first guess of that share worth. */
const PRIOR_WEIGHT = 2;

/** The first guess of that share, by class of match length: 0, 1, 2-3, 4-7, 8 and more. */
const PREDICTED_SHARE = [0.3, 0.5, 0.6, 0.8, 0.9] as const;
const CONTEXT_SHARE = [0, 0, 0.25, 0.4, 0.6] as const;

/** How many of the guesses of one class came true. */
interface Share {
  value: number;
  weight: number;
}

interface Place {
  /** Where the guess begins in the source. */
  readonly position: number;
  readonly matchLength: number;
}

export class DraftSource {
  readonly #prediction: Int32Array;
  readonly #predictedShares: Share[] = PREDICTED_SHARE.map((value) => ({ value, weight: PRIOR_WEIGHT }));
  readonly #contextShares: Share[] = CONTEXT_SHARE.map((value) => ({ value, weight: PRIOR_WEIGHT }));
  /** The prediction's token `#position` was last thought to be the sequence's token `#numTokens`. */
  #position = 0;
  #numTokens: number;

  /** @param numPromptTokens the prediction is taken to begin where the prompt ends */
  constructor(prediction: Int32Array, numPromptTokens: number) {
    this.#prediction = prediction;
    this.#numTokens = numPromptTokens;
  }

  /** @param tokens prompt and output. `undefined` if nothing speaks for any token. */
  propose(tokens: Int32Array, maxTokens: number): Draft | undefined {
    if (maxTokens < 1) return undefined;
    const predicted = this.#inPrediction(tokens);
    const from = Math.max(0, tokens.length - MAX_SEARCHED);
    const context = tokens.subarray(from, tokens.length - 1);
    const inContext =
      predicted !== undefined && predicted.matchLength >= MAX_MATCH ? undefined : longestMatch(context, tokens);
    if (predicted !== undefined && predicted.matchLength >= (inContext?.matchLength ?? 0)) {
      this.#position = predicted.position;
      this.#numTokens = tokens.length;
      const end = predicted.position + maxTokens;
      return { ...predicted, tokens: this.#prediction.subarray(predicted.position, end), isPredicted: true };
    }
    if (inContext === undefined) return undefined;
    const start = from + inContext.position;
    return { ...inContext, tokens: tokens.subarray(start, start + maxTokens), isPredicted: false };
  }

  /** How probable it is that the guess's token `index` comes true if those before it do. */
  confidence(draft: Draft, index: number): number {
    return this.#shareOf(draft, index).value;
  }

  /** The first `numRight` tokens came true; the next one did not if `hasMissed`. Later ones were never looked at. */
  learn(draft: Draft, numRight: number, hasMissed: boolean): void {
    for (let i = 0; i < numRight; i++) this.#observe(draft, i, 1);
    if (hasMissed) this.#observe(draft, numRight, 0);
  }

  #observe(draft: Draft, index: number, hit: 0 | 1): void {
    const share = this.#shareOf(draft, index);
    share.weight++;
    share.value += Math.max(LEARNING_RATE, 1 / share.weight) * (hit - share.value);
  }

  #shareOf({ isPredicted, matchLength }: Draft, index: number): Share {
    const shares = isPredicted ? this.#predictedShares : this.#contextShares;
    return shares[classOf(matchLength + index)] as Share; // every length has a class
  }

  /** A run of at least two tokens, else the place that comes next if one token was replaced by another. */
  #inPrediction(tokens: Int32Array): Place | undefined {
    if (this.#prediction.length === 0) return undefined;
    const expected = this.#position + tokens.length - this.#numTokens;
    const found = longestMatch(this.#prediction.subarray(0, -1), tokens, expected);
    if (found !== undefined) return found;
    if (expected >= this.#prediction.length) return undefined;
    const isInStep = expected > 0 && this.#prediction[expected - 1] === tokens[tokens.length - 1];
    return { position: expected, matchLength: isInStep ? 1 : 0 };
  }
}

/**
 * The place behind the longest run of tokens of `source` that `tokens` ends with; among equals the one nearest to `expected`, else the last.
 */
function longestMatch(source: Int32Array, tokens: Int32Array, expected = source.length): Place | undefined {
  const end = tokens.length - 1;
  const last = tokens[end];
  let position = 0;
  let longest = MIN_MATCH - 1;
  for (let i = source.length - 1; i > 0; i--) {
    if (source[i] !== last) continue;
    let length = 1;
    while (length < MAX_MATCH && length <= i && length <= end && source[i - length] === tokens[end - length]) length++;
    const isNearer = length === longest && Math.abs(i + 1 - expected) < Math.abs(position - expected);
    if (length < MIN_MATCH || (length <= longest && !isNearer)) continue;
    longest = length;
    position = i + 1;
  }
  return longest < MIN_MATCH ? undefined : { position, matchLength: longest };
}

function classOf(matchLength: number): number {
  if (matchLength >= 8) return 4;
  return matchLength >= 4 ? 3 : Math.min(matchLength, 2);
}
