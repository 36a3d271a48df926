/**
 * Text of a user for servers that read special tokens wherever they find them: they render the chat template and encode the
 * whole of it, so `<|im_end|>` in a solution would end the turn. Knows how well-known model families write such tokens.
 */

/** `<|…|>` in all its forms, sentence marks, the turn and instruction marks of Gemma, Llama 2, Mistral and DeepSeek. */
const MARKS =
  /<[|｜][^<>\s]{1,64}?[|｜]>|<\/?s>|<\/?(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_(?:turn|image|text)>|\[\/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|PREFIX|SUFFIX|MIDDLE|IMG|THINK)\]|<<\/?SYS>>|<\/?(?:tool_call|tool_response|think)>/giu;

/** Invisible, not a space, and part of no special token. */
const BREAK = '\u2060';

/** The text with an invisible character inside everything that could be a special token; other text is untouched. */
export function breakMarks(text: string): string {
  return text.replace(MARKS, (mark) => mark.slice(0, 1) + BREAK + mark.slice(1));
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
