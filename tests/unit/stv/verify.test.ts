import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { StvError } from '../../../src/errors.ts';
import { BUNDLED_PACKS, loadPack } from '../../../src/models/pack.ts';
import { foldRefine, foldVerify } from '../../../src/stv/fold.ts';
import { type RefineEvent, type RefineRequest, refine } from '../../../src/stv/refine.ts';
import { voteSeed } from '../../../src/stv/seeds.ts';
import { type VerificationAnswer, type VerifyEvent, type VerifyRequest, verify } from '../../../src/stv/verify.ts';
import { createLoopPack } from '../../support/loop-pack.ts';
import { type EngineScript, promptText, ScriptedEngine } from '../../support/scripted-engine.ts';

const problem = 'Solve 4(x - 3) + 5 = 2x + 9.';
const solution = '4x - 3 + 5 = 2x + 9\n4x + 2 = 2x + 9\nx = 3.5';

const base: VerifyRequest = {
  id: 'vrf_1',
  problem,
  solution,
  mode: 'full',
  votes: 1,
  earlyStop: true,
  model: 'verifier',
  seed: 7,
  priority: 'interactive',
};

async function runVerify(
  changes: Partial<VerifyRequest>,
  script: EngineScript,
  options: { readonly signal?: AbortSignal; readonly pack?: ReturnType<typeof createLoopPack> } = {},
): Promise<{ engine: ScriptedEngine; events: VerifyEvent[]; answer: VerificationAnswer }> {
  const engine = new ScriptedEngine(script);
  const events: VerifyEvent[] = [];
  const deps = { engine, pack: options.pack ?? createLoopPack() };
  const stream = verify({ ...base, ...changes }, deps, options.signal === undefined ? {} : { signal: options.signal });
  const recorded = (async function* () {
    for await (const event of stream) {
      events.push(event);
      yield event;
    }
  })();
  return { answer: await foldVerify(recorded), engine, events };
}

/** P(accept) by vote. */
const byVote =
  (...scores: readonly number[]): NonNullable<EngineScript['score']> =>
  ({ id }) => {
    const score = scores[Number(/-v(\d+)-s/.exec(id)?.[1] ?? 0)] ?? 0.5;
    return [score, 1 - score];
  };

describe('verify', () => {
  it('gives verdict, score, feedback and first error of a wrong solution', async () => {
    const { answer, events, engine } = await runVerify(
      {},
      { generate: () => 'Step 1: 4 times -3 is -12, not -3.', score: () => [0.04, 0.96] },
    );
    expect(answer).toMatchObject({
      id: 'vrf_1',
      object: 'verification',
      model: 'scripted/verifier@sha256:00',
      verdict: 'reject',
      agreement: 1,
      leak: null,
      feedback: 'Step 1: 4 times -3 is -12, not -3.',
      firstError: { step: 1, start: 0, end: 19, quote: '4x - 3 + 5 = 2x + 9' },
      votes: [{ verdict: 'reject', finishReason: 'stop', seed: 7 }],
    });
    expect(answer.rawScore).toBeCloseTo(0.04);
    expect(events.map(({ type }) => type).filter((type) => type !== 'verification-delta')).toEqual([
      'verification-start',
      'vote-end',
      'verification-end',
    ]);
    const deltas = events.flatMap((event) => (event.type === 'verification-delta' ? [event.text] : []));
    expect(deltas.join('')).toBe(answer.feedback);
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
    expect(answer.timings).toMatchObject({ queueMs: 2, prefillMs: 4, decodeMs: answer.usage.completionTokens });
  });

  it('writes the verdict’s opening itself, behind the feedback of the same prompt', async () => {
    const { engine } = await runVerify(
      {},
      { generate: () => 'Fine.</feedback><verdict>accept', score: () => [0.1, 0.9] },
    );
    const [generation, score] = [engine.generateRequests[0], engine.scoreRequests[0]];
    expect(generation?.prompt).toMatchObject({ kind: 'chat', assistantPrefix: '<feedback>' });
    expect(score?.prompt).toMatchObject({ assistantPrefix: '<feedback>Fine.</feedback>\n<verdict>' });
    expect(score?.candidates).toEqual(['accept', 'reject', 'unsure']);
    expect([generation?.isContinued, score?.isContinuation], 'the engine keeps the cache in between').toEqual([
      true,
      true,
    ]);
  });

  it('is undetermined when the feedback was cut off, whatever the words say', async () => {
    const { answer } = await runVerify(
      { maxTokens: 3 },
      { generate: () => 'one two three four five', score: () => [0.99, 0.01] },
    );
    expect(answer).toMatchObject({
      verdict: 'undetermined',
      votes: [{ finishReason: 'length', feedback: 'one two three' }],
    });
    expect(answer.score).toBeCloseTo(0.99);
  });

  it('scores in one call without feedback', async () => {
    const { answer, engine } = await runVerify({ mode: 'score' }, { score: () => [0.2, 0.8] });
    expect(engine.generateRequests).toHaveLength(0);
    expect(engine.scoreRequests).toHaveLength(1);
    expect(engine.scoreRequests[0]).toMatchObject({
      prompt: { assistantPrefix: '\n<verdict>' },
      isContinuation: false,
    });
    expect(answer).toMatchObject({ verdict: 'reject', feedback: '', firstError: null, usage: { completionTokens: 0 } });
  });

  it('stops counting votes once the majority is certain', async () => {
    const script: EngineScript = {
      generate: ({ id }) => ({ text: `words of ${id}`, delayMs: Number(/-v(\d+)/.exec(id)?.[1]) > 2 ? 5_000 : 1 }),
      score: byVote(0.9, 0.8, 0.7, 0.1, 0.1),
    };
    const { answer, events, engine } = await runVerify({ votes: 5 }, script);
    expect(answer).toMatchObject({ verdict: 'accept', agreement: 1, firstError: null });
    expect(answer.votes).toHaveLength(3);
    expect(answer.rawScore).toBeCloseTo(0.8);
    expect(answer.feedback).toBe('words of vrf_1-v0-f');
    expect(events.filter(({ type }) => type === 'vote-end').map((event) => 'vote' in event && event.vote)).toEqual([
      0, 1, 2,
    ]);
    expect(engine.numOpen).toBe(0);
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
  });

  it('casts every vote without early stop, and calls a tie undetermined', async () => {
    const { answer } = await runVerify(
      { votes: 4, earlyStop: false },
      { generate: ({ id }) => `vote ${id.slice(-3, -2)}: line 1 is wrong`, score: byVote(0.9, 0.8, 0.1, 0.2) },
    );
    // whoever cannot tell whether it is wrong cannot tell where
    expect(answer).toMatchObject({ verdict: 'undetermined', agreement: 0, firstError: null });
    expect(answer.votes).toHaveLength(4);
    expect(answer.feedback).toBe('vote 2: line 1 is wrong');
  });

  it('shows the feedback of the most extreme vote of that verdict', async () => {
    const { answer } = await runVerify(
      { votes: 3, earlyStop: false },
      { generate: ({ id }) => `Line ${Number(/-v(\d)/.exec(id)?.[1]) + 1} is wrong.`, score: byVote(0.3, 0.1, 0.9) },
    );
    expect(answer).toMatchObject({ verdict: 'reject', feedback: 'Line 2 is wrong.', firstError: { step: 2 } });
    expect(answer.agreement).toBeCloseTo(2 / 3);
  });

  it('lets every vote be repeated by its own seed', async () => {
    const generate: EngineScript['generate'] = ({ sampling }) => `seed ${sampling.seed}`;
    const { answer } = await runVerify({ votes: 3, earlyStop: false }, { generate });
    expect(answer.votes.map(({ seed }) => seed)).toEqual([0, 1, 2].map((vote) => voteSeed(7, vote)));
    for (const { seed, feedback } of answer.votes) {
      expect((await runVerify({ seed }, { generate })).answer.votes[0]?.feedback).toBe(feedback);
    }
  });

  it('draws a seed and reports it when there is none', async () => {
    const engine = new ScriptedEngine();
    const answer = await foldVerify(
      verify(
        { ...base, seed: undefined },
        { engine, pack: createLoopPack(), drawSeed: () => 99, now: () => 5_000_000 },
      ),
    );
    expect(answer).toMatchObject({ created: 5_000, votes: [{ seed: 99 }] });
  });

  it('finds the first error by prefixes when the feedback names no step', async () => {
    const { answer, engine } = await runVerify(
      {},
      {
        generate: () => 'This does not work out.',
        score: (request) => {
          if (request.id.endsWith('-s')) return [0.1, 0.9];
          return promptText(request.prompt).includes('4x + 2') ? [0.2, 0.8] : [0.9, 0.1];
        },
      },
    );
    expect(answer.firstError).toMatchObject({ step: 2, quote: '4x + 2 = 2x + 9' });
    expect(engine.scoreRequests.map(({ id }) => id)).toEqual(['vrf_1-v0-s', 'vrf_1-p1', 'vrf_1-p2', 'vrf_1-p3']);
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
  });

  it('finds the step that the model was shown under its number', async () => {
    const numbered = '4(x - 3) + 5 = 2x + 9\n1. 4x - 12 + 5 = 2x + 9\n2. 4x - 7 = 2x + 9\n3. 2x = 2\n4. x = 1';
    const feedback = 'Step 1: 4 times x is 4x, here 4x, ok\nStep 2: -12 + 5 is -7, here -12, wrong.';
    const script: EngineScript = { generate: () => feedback, score: () => [0.1, 0.9] };
    // the prompt of this pack numbers the lines, whatever numbers they have
    const { prompts } = await loadPack(join(BUNDLED_PACKS, 'stv-mini'));
    const pack = createLoopPack({ prompts });
    const informed = { solution: numbered, reference: '4x - 7 = 2x + 9\nx = 8' };
    for (const changes of [{ solution: numbered }, { solution: numbered, problem: numbered }, informed]) {
      const { answer } = await runVerify(changes, script, { pack });
      expect(answer.firstError).toMatchObject({ step: 2, quote: '1. 4x - 12 + 5 = 2x + 9' });
    }
    // where a prompt shows the solution as it is, the numbers are the solution's own
    const { answer } = await runVerify({ solution: numbered }, script);
    expect(answer.firstError).toMatchObject({ step: 2, quote: '2. 4x - 7 = 2x + 9' });
  });

  it('finds the first error also where the prompt refuses a blank problem', async () => {
    const template = "{% if not problem %}{{ raise_exception('No problem.') }}{% endif %}{{ solution }}";
    const { prompts } = createLoopPack();
    const pack = createLoopPack({ prompts: { ...prompts, verify: { messages: [{ role: 'user', template }] } } });
    const { answer } = await runVerify({}, { generate: () => 'Step 2 is wrong.', score: () => [0.1, 0.9] }, { pack });
    expect(answer.firstError).toMatchObject({ step: 2 });
  });

  it('calibrates scores', async () => {
    const pack = createLoopPack({ calibration: { kind: 'platt', slope: 0, intercept: 0 } });
    const { answer } = await runVerify({}, { score: () => [0.9, 0.1] }, { pack });
    expect(answer).toMatchObject({ verdict: 'accept', score: 0.5, votes: [{ score: 0.5 }] });
    expect(answer.rawScore).toBeCloseTo(0.9);
  });

  it.each([
    [
      'an engine error',
      { generate: () => ({ text: 'some words', error: new StvError('engine_crashed', 'Gone.'), errorAfter: 1 }) },
      'engine_crashed',
    ],
    [
      'an error of the score',
      { score: () => ({ probabilities: [], error: new StvError('remote_unavailable', 'Away.') }) },
      'remote_unavailable',
    ],
    ['an engine that ends without a word', { generate: () => ({ text: '', endsSilently: true }) }, 'internal'],
    [
      'an engine that ends with an error',
      { generate: () => ({ text: 'x', finishReason: 'error' as const }) },
      'runtime_failed',
    ],
    ['a prompt past the context', { contextLength: 20 }, 'context_length_exceeded'],
  ])('throws the error of %s', async (_, script, code) => {
    const engine = new ScriptedEngine(script);
    const stream = verify({ ...base, votes: 3 }, { engine, pack: createLoopPack() });
    await expect(foldVerify(stream)).rejects.toMatchObject({ code });
    expect(engine.numOpen).toBe(0);
  });

  it('throws for an unknown model', async () => {
    await expect(runVerify({ model: 'nobody' }, {})).rejects.toMatchObject({ code: 'model_not_found', param: 'model' });
  });

  it('leaves room for the verdict in a short context', async () => {
    const { engine, answer } = await runVerify(
      { maxTokens: 500 },
      { contextLength: 90, generate: () => 'word '.repeat(200), score: () => [0.9, 0.1] },
    );
    const prompt = await engine.countTokens('verifier', engine.scoreRequests[0]?.prompt ?? { kind: 'text', text: '' });
    expect(prompt).toBeLessThanOrEqual(90);
    expect(answer.verdict).toBe('undetermined');
  });

  it('cancels every call when the signal is aborted', async () => {
    const controller = new AbortController();
    const script: EngineScript = { generate: () => ({ text: 'word '.repeat(50), delayMs: 5 }) };
    const run = runVerify({ votes: 4 }, script, { signal: controller.signal });
    setTimeout(() => controller.abort(), 15);
    await expect(run).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('does not wait for tokens that are being counted when it is aborted', async () => {
    const controller = new AbortController();
    const engine = new ScriptedEngine({});
    const signals: (AbortSignal | undefined)[] = [];
    engine.countTokens = (_model, _prompt, options) => {
      signals.push(options?.signal);
      return new Promise(() => {});
    };
    const answer = foldVerify(verify(base, { engine, pack: createLoopPack() }, { signal: controller.signal }));
    setTimeout(() => controller.abort(), 15);
    await expect(answer).rejects.toMatchObject({ code: 'cancelled' });
    expect(signals.map((signal) => signal?.aborted)).toEqual(signals.map(() => true));
    expect(signals.length).toBeGreaterThan(2);
  });

  it('does not wait long for an engine that ignores an abort', { timeout: 10_000 }, async () => {
    const controller = new AbortController();
    const script: EngineScript = {
      generate: () => ({ text: 'word '.repeat(5), delayMs: 60_000, ignoresAbortMs: 60_000 }),
    };
    const run = runVerify({}, script, { signal: controller.signal });
    setTimeout(() => controller.abort(), 5);
    await expect(run).rejects.toMatchObject({ code: 'cancelled' });
  });
});

describe('verify with a reference', () => {
  const reference = '4x - 12 + 5 = 2x + 9\nx = 8';
  const leaky = 'Step 1 is wrong; the answer is x = 8.';
  const clean = 'Step 1: 4 times -3 is -12.';

  it('uses the informed prompt and passes clean feedback', async () => {
    const { answer, engine } = await runVerify({ reference }, { generate: () => clean, score: () => [0.1, 0.9] });
    expect(answer).toMatchObject({ leak: 'none', feedback: clean });
    expect(promptText(engine.generateRequests[0]?.prompt ?? { kind: 'text', text: '' })).toContain(
      `REFERENCE ${reference}`,
    );
  });

  it('generates again what leaks, with another seed and never greedily, and shows no delta of it', async () => {
    const { answer, events, engine } = await runVerify(
      { reference, temperature: 0 },
      { generate: (_, count) => (count < 2 ? leaky : clean), score: () => [0.1, 0.9] },
    );
    expect(answer).toMatchObject({ leak: 'regenerated', feedback: clean });
    expect(JSON.stringify(events)).not.toContain('x = 8');
    expect(new Set(engine.generateRequests.map(({ sampling }) => sampling.seed)).size).toBe(3);
    expect(engine.generateRequests.map(({ sampling }) => sampling.temperature > 0)).toEqual([false, true, true]);
    expect(answer.usage.totalTokens).toBe(engine.totalTokens());
  });

  it('redacts what keeps leaking', async () => {
    const { answer, events } = await runVerify({ reference }, { generate: () => leaky, score: () => [0.1, 0.9] });
    expect(answer).toMatchObject({ leak: 'redacted', feedback: 'Step 1 is wrong; the answer is x = […].' });
    expect(JSON.stringify(events)).not.toContain('x = 8');
  });

  it('refuses a reference where the pack has no prompt for it', async () => {
    const { prompts } = createLoopPack();
    const pack = createLoopPack({ prompts: { ...prompts, verifyWithReference: undefined } });
    await expect(runVerify({ reference }, {}, { pack })).rejects.toMatchObject({
      code: 'unsupported_parameter',
      param: 'reference',
    });
  });
});

describe('refine', () => {
  const request: RefineRequest = {
    id: 'ref_1',
    problem,
    attempt: 'x = 3',
    feedback: { verdict: 'reject', text: 'No.' },
    model: 'generator',
    seed: 3,
    priority: 'interactive',
  };

  it('writes a new attempt and finds its answer', async () => {
    const engine = new ScriptedEngine({ generate: () => 'So \\boxed{8}' });
    const events: RefineEvent[] = [];
    for await (const event of refine(request, { engine, pack: createLoopPack() })) events.push(event);
    expect(events.at(-1)).toMatchObject({
      type: 'refinement-end',
      object: 'refinement',
      attempt: 'So \\boxed{8}',
      answer: '8',
      reasoning: null,
      finishReason: 'stop',
      seed: 3,
      usage: { totalTokens: engine.totalTokens() },
    });
    expect(engine.generateRequests[0]).toMatchObject({ prediction: 'x = 3', sampling: { seed: 3 } });
    expect(promptText(engine.generateRequests[0]?.prompt ?? { kind: 'text', text: '' })).toContain(
      'FEEDBACK (reject) No.',
    );
  });

  it('keeps thoughts apart from the attempt', async () => {
    const pack = createLoopPack({ reasoning: { open: '<think>', close: '</think>' } });
    const engine = new ScriptedEngine({ generate: () => '<think>so \\boxed{1}</think>\n\nIt is \\boxed{8}' });
    const events: RefineEvent[] = [];
    for await (const event of refine(request, { engine, pack })) events.push(event);
    const deltas = events.flatMap((event) => (event.type === 'attempt-delta' ? [event.text] : [])).join('');
    const answer = await foldRefine(
      (async function* () {
        yield* events;
      })(),
    );
    expect(answer).toMatchObject({ attempt: 'It is \\boxed{8}', answer: '8', reasoning: 'so \\boxed{1}' });
    expect(deltas).toBe(answer.attempt);
    expect(answer.usage.completionTokensDetails.reasoningTokens).toBeGreaterThan(0);
  });
});
