// The Vercel AI SDK with its provider for compatible servers. Prints what it read as one JSON object.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';

const stv = createOpenAICompatible({ name: 'stv', baseURL: `${process.env.STV_URL}/v1`, includeUsage: true });
const options = { maxOutputTokens: 4, seed: 1, maxRetries: 0 };

const chat = await generateText({ model: stv('generator'), system: 'Be brief.', prompt: 'Say hi.', ...options });
const completion = await generateText({ model: stv.completionModel('generator'), prompt: 'The sun', ...options });

const streamed = streamText({
  model: stv('solve'),
  prompt: 'What is 2 + 3?',
  ...options,
  providerOptions: { stv: { x_solve: { max_rounds: 1, verifier: { max_tokens: 4 } } } },
});
const parts = [];
for await (const part of streamed.fullStream) parts.push({ type: part.type, text: part.text });

let error;
try {
  await generateText({ model: stv('nope'), prompt: 'x', maxRetries: 0 });
} catch ({ name, statusCode, isRetryable, message }) {
  error = { name, statusCode, isRetryable, message };
}

console.log(
  JSON.stringify({
    chat: { text: chat.text, finishReason: chat.finishReason, usage: chat.usage },
    completion: { text: completion.text, usage: completion.usage },
    parts,
    usage: await streamed.usage,
    error,
  }),
);
