// LangChain over chat completions, completions and responses. Prints what it read as one JSON object.
import { ChatOpenAI, OpenAI } from '@langchain/openai';

const shared = { apiKey: 'none', maxTokens: 4, maxRetries: 0, configuration: { baseURL: `${process.env.STV_URL}/v1` } };
const chat = new ChatOpenAI({ model: 'generator', ...shared });
const answer = await chat.invoke([
  ['system', 'Be brief.'],
  ['human', 'Say hi.'],
]);

const chunks = [];
for await (const { content, usage_metadata } of await chat.stream('Say hi.')) chunks.push({ content, usage_metadata });

const completion = await new OpenAI({ model: 'generator', ...shared }).invoke('The sun');

const solver = new ChatOpenAI({
  model: 'solve',
  ...shared,
  useResponsesApi: true,
  modelKwargs: { x_solve: { max_rounds: 0, verifier: { max_tokens: 4 } } },
});
const solved = await solver.invoke('What is 2 + 3?');
// a second turn sends the reasoning item of the first one back
const again = await solver.invoke([['human', 'What is 2 + 3?'], solved, ['human', 'And 2 + 4?']]);
let streamedText = '';
for await (const chunk of await solver.stream('What is 2 + 3?')) streamedText += chunk.text;

console.log(
  JSON.stringify({
    answer: { content: answer.content, usage: answer.usage_metadata, finish: answer.response_metadata.finish_reason },
    chunks,
    completion,
    solved: { text: solved.text, content: solved.content, usage: solved.usage_metadata },
    again: again.text,
    streamedText,
  }),
);
