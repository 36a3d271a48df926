// The official client for Node. Prints what it read as one JSON object.
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: `${process.env.STV_URL}/v1`, apiKey: 'none', maxRetries: 0 });
const messages = [{ role: 'user', content: 'Say hi.' }];
const model = 'generator';
const limits = { max_completion_tokens: 4, seed: 1 };

const models = [];
for await (const { id } of client.models.list()) models.push(id);

const chat = await client.chat.completions.create({
  model,
  messages,
  ...limits,
  n: 2,
  logprobs: true,
  top_logprobs: 2,
});

const chunks = [];
const stream = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ model, messages, ...limits, ...stream })) {
  chunks.push(chunk);
}

const completion = await client.completions.create({
  model,
  prompt: 'The sun rises in the east',
  max_tokens: 1,
  echo: true,
  logprobs: 1,
  temperature: 0,
});

const response = client.responses.stream({ model, input: 'Name a colour.', temperature: 0, stop: [' ', '.', '\n'] });
const responseEvents = [];
for await (const { type } of response) responseEvents.push(type);

let solved = '';
let reasoning = '';
let summary;
for await (const chunk of await client.chat.completions.create({
  model: 'solve',
  messages: [{ role: 'user', content: 'What is 2 + 3?' }],
  max_tokens: 4,
  x_solve: { max_rounds: 1, seed: 1, verifier: { max_tokens: 4 } },
  stream: true,
})) {
  const delta = chunk.choices[0]?.delta ?? {};
  solved += delta.content ?? '';
  reasoning += delta.reasoning_content ?? '';
  summary = chunk.x_solve ?? summary;
}

const errors = [];
for (const body of [{ tools: [{ type: 'function', function: { name: 'f' } }] }, { model: 'nope' }, { max_tokens: 0 }]) {
  try {
    await client.chat.completions.create({ model, messages, ...body });
  } catch (error) {
    errors.push({ status: error.status, code: error.code, param: error.param, requestId: error.requestID });
  }
}

const finalText = (await response.finalResponse()).output_text;
console.log(
  JSON.stringify({ models, chat, chunks, completion, responseEvents, finalText, solved, reasoning, summary, errors }),
);
