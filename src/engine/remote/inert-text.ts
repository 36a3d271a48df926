/**
 * Text of a user for servers that read special tokens wherever they find them: they render the chat template and encode the
 * whole of it, so `<|im_end|>` in a solution would end the turn. Knows how well-known model families write such tokens.
 */

/** Each finds the first character of a mark and no more: marks may overlap or lie in each other, and none may stay whole. */
const FAMILIES: readonly RegExp[] = [
  // ChatML, Llama 3, Phi, DeepSeek and many more
  /<(?=[|｜][^<>\s]{1,64}[|｜]>)/,
  // Gemma 4: a bar on one side, around a word, since `<|x>` may be mathematics
  /<(?=[|｜][\p{L}\p{N}_:./-]{2,64}>|[\p{L}\p{N}_:./-]{2,64}[|｜]>)/u,
  // sentence marks, those of Cohere among them
  /<(?=\/?(?:s|(?:bos|eos|pad|unk|mask)(?:_token)?)>)/,
  /<(?=(?:start|end)_of_(?:turn|image|text|utterance)>)/,
  /<(?=\/?(?:tool_call|tool_response|think)>)/,
  // Llama 2, Mistral
  /<(?=<\/?SYS>>)/,
  /\[(?=\/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|PREFIX|SUFFIX|MIDDLE|IMG|THINK)\])/,
  // EXAONE: words only, since `E[|x|]` is mathematics
  /\[(?=\|[a-z_]{4,32}\|\])/,
  // Seed-OSS
  /<(?=\/?seed:[^<>\s]{1,64}>)/,
  // MiniMax-M2
  /\[(?=e~\[)|\](?=~!?b[[\]])/,
];
const MARKS = new RegExp(FAMILIES.map(({ source }) => source).join('|'), 'giu');

/** Invisible, not a space, and part of no special token. */
const BREAK = '\u2060';

/** The text with an invisible character inside everything that could be a special token; other text is untouched. */
export function breakMarks(text: string): string {
  return text.replace(MARKS, `$&${BREAK}`);
}

/** The text in pieces that hold no special token each: encoded apart and joined, they are the text's exact characters. */
export function splitMarks(text: string): string[] {
  const pieces: string[] = [];
  let begin = 0;
  for (const { index } of text.matchAll(MARKS)) {
    pieces.push(text.slice(begin, index + 1));
    begin = index + 1;
  }
  pieces.push(text.slice(begin));
  return pieces.filter((piece) => piece !== '');
}
