import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { HostClient } from '../../../src/engine/host-client.ts';
import type { HostEvents, HostLink } from '../../../src/engine/host-link.ts';
import type { ToHost } from '../../../src/engine/messages.ts';
import { Supervisor, type SupervisorOptions } from '../../../src/engine/supervisor.ts';
import { StvError } from '../../../src/errors.ts';
import { spec } from '../../support/engine-core-driver.ts';

/** A host that does what the test says. */
class PuppetHost implements HostLink {
  readonly pid = undefined;
  readonly events: HostEvents;
  readonly spawnedAtMs = performance.now();
  readonly received: ToHost[] = [];
  wasKilled = false;

  constructor(events: HostEvents) {
    this.events = events;
  }

  send(message: ToHost): void {
    this.received.push(message);
  }

  kill(): void {
    this.wasKilled = true;
    this.events.onExit('signal SIGKILL');
  }

  ready(): void {
    this.events.onMessage({ type: 'ready', models: [] });
  }
}

let supervisor: Supervisor | undefined;
afterEach(async () => {
  const closing = supervisor?.close();
  hosts.at(-1)?.events.onExit('exit code 0');
  await closing;
  hosts = [];
});
let hosts: PuppetHost[] = [];

function create(changes: Partial<SupervisorOptions> = {}): Supervisor {
  supervisor = new Supervisor({
    spawn: (events) => {
      const host = new PuppetHost(events);
      hosts.push(host);
      return host;
    },
    models: [],
    hangAfterMs: 1000,
    loadTimeoutMs: 1000,
    minRestartDelayMs: 20,
    maxRestartDelayMs: 60,
    hasWork: () => false,
    onMessage: () => {},
    onReady: () => {},
    onDown: () => {},
    now: () => performance.now(),
    ...changes,
  });
  return supervisor;
}

async function nextHost(count: number): Promise<PuppetHost> {
  while (hosts.length < count) await sleep(1);
  return hosts[count - 1] as PuppetHost;
}

describe('Supervisor', () => {
  it('rejects the start with what the first host said, and does not try again', async () => {
    const started = create().start();
    const host = await nextHost(1);
    host.events.onMessage({ type: 'fatal', code: 'pack_invalid', message: 'weights.bin is missing.' });
    host.events.onExit('exit code 1');
    await expect(started).rejects.toMatchObject({ code: 'pack_invalid', message: 'weights.bin is missing.' });
    await sleep(60);
    expect(hosts).toHaveLength(1);
  });

  it('rejects the start when it is closed while loading', async () => {
    const loading = create();
    const started = loading.start();
    const host = await nextHost(1);
    const closed = loading.close();
    await expect(started).rejects.toMatchObject({ code: 'draining' });
    host.events.onExit('exit code 0');
    await closed;
    expect(host.received.at(-1)).toEqual({ type: 'shutdown' });
  });

  it('pauses longer after every failure, up to a limit, and tells once for each host', async () => {
    const downs: string[] = [];
    const started = create({ onDown: (event) => downs.push(event) });
    const ready = started.start();
    (await nextHost(1)).ready();
    await ready;
    const pauses: number[] = [];
    for (let count = 1; count <= 4; count++) {
      const diedAt = performance.now();
      (hosts[count - 1] as PuppetHost).events.onExit('signal SIGSEGV');
      (hosts[count - 1] as PuppetHost).events.onExit('signal SIGSEGV');
      expect(started.state).toBe('restarting');
      pauses.push((await nextHost(count + 1)).spawnedAtMs - diedAt);
    }
    expect(downs).toEqual(['crashed', 'crashed', 'crashed', 'crashed']);
    expect(pauses[0]).toBeGreaterThanOrEqual(19);
    expect(pauses[1]).toBeGreaterThanOrEqual(39);
    expect(pauses[2]).toBeGreaterThanOrEqual(59);
    expect(pauses[3]).toBeGreaterThanOrEqual(59);
    (hosts[4] as PuppetHost).ready();
    expect(started.state).toBe('ready');
    expect(started.reason).toBeUndefined();
  });

  it('kills a host that loads for too long or is silent with work', async () => {
    let hasWork = false;
    const downs: string[] = [];
    const options = { loadTimeoutMs: 50, hangAfterMs: 50, hasWork: () => hasWork };
    const started = create({ ...options, onDown: (event) => downs.push(event) });
    const ready = started.start();
    (await nextHost(1)).ready();
    await ready;
    started.send({ type: 'abort', model: 0, ids: [] });
    hasWork = true;
    const second = await nextHost(2); // silent with work
    expect(hosts[0]?.wasKilled).toBe(true);
    (await nextHost(3)).ready(); // the second never finished loading
    expect(second.wasKilled).toBe(true);
    expect(downs).toEqual(['hung', 'hung']);
    hasWork = false;
    await sleep(120);
    expect(hosts).toHaveLength(3); // silence without work is no fault
  });

  it('kills a host that is silent although everybody gives up before it hangs for long, and no other', async () => {
    let hasWork = false;
    const downs: string[] = [];
    const started = create({ hangAfterMs: 80, hasWork: () => hasWork, onDown: (event) => downs.push(event) });
    const ready = started.start();
    (await nextHost(1)).ready();
    await ready;
    /** Asks, gives up after a while, and is gone before the next one comes. */
    const askAndGiveUp = async (): Promise<void> => {
      started.send({ type: 'add', model: 0, sequence: spec(1, [1]) });
      hasWork = true;
      await sleep(20);
      started.send({ type: 'abort', model: 0, ids: [1] });
      hasWork = false;
      await sleep(10);
    };
    for (let times = 0; times < 10; times++) {
      await askAndGiveUp();
      hosts[0]?.events.onMessage({ type: 'slots', model: 0, used: 0, cached: 0 });
    }
    await sleep(200);
    expect(hosts[0]?.wasKilled, 'it answers, and then owes nothing').toBe(false);
    for (let times = 0; times < 20 && downs.length === 0; times++) await askAndGiveUp();
    expect(downs).toEqual(['hung']);
    expect(hosts[0]?.wasKilled).toBe(true);
    (await nextHost(2)).ready();
    await sleep(200);
    expect(hosts, 'the new one owes nothing').toHaveLength(2);
  });

  it('kills a host that does not end when it is asked to', async () => {
    const started = create({ shutdownGraceMs: 30 });
    const ready = started.start();
    (await nextHost(1)).ready();
    await ready;
    await started.close();
    expect(hosts[0]?.wasKilled).toBe(true);
    expect(started.state).toBe('closed');
  });
});

/** A client whose clock goes only where it is told to, in steps that no check finds long. */
async function startClient() {
  const clock = { ms: 0 };
  const client = new HostClient({
    spawn: (events) => {
      const host = new PuppetHost(events);
      hosts.push(host);
      if (hosts.length > 1) setImmediate(() => host.ready());
      return host;
    },
    models: [],
    names: ['m'],
    hangAfterMs: 40,
    loadTimeoutMs: 1000,
    minRestartDelayMs: 1,
    maxRestartDelayMs: 1,
    now: () => clock.ms,
    emit: () => {},
  });
  const ready = client.start();
  const host = hosts[0] as PuppetHost;
  host.ready();
  await ready;
  const goOnTo = async (ms: number): Promise<void> => {
    for (; clock.ms < ms; await sleep(12)) clock.ms += 5;
  };
  onTestFinished(() => client.close(new StvError('draining', 'The test is over.')));
  return { client, host, clock, goOnTo };
}

const receiver = { push: () => {}, fail: () => {} };

describe('HostClient', () => {
  it('does not take an abort for a sign of life', async () => {
    const { client, host, goOnTo } = await startClient();
    const sequence = client.send(0, receiver, spec(0, [1]));
    host.events.onMessage({ type: 'slots', model: 0, used: 0, cached: 0 }); // of an abort before
    await goOnTo(30);
    client.abort(sequence);
    client.abort(sequence);
    await goOnTo(50); // 50 since it said something, 20 since the abort
    await vi.waitFor(() => expect(host.wasKilled).toBe(true), 2000);
    expect(host.received.filter(({ type }) => type === 'abort')).toHaveLength(1);
  });

  it('does not count the time in which it stood still itself', async () => {
    const { client, host, clock, goOnTo } = await startClient();
    client.send(0, receiver, spec(0, [1]));
    clock.ms += 10_000; // paused, and its host with it
    await sleep(60);
    expect(host.wasKilled).toBe(false);
    await goOnTo(clock.ms + 80);
    await vi.waitFor(() => expect(host.wasKilled).toBe(true), 2000);
  });

  it('blames a request that its caller gave up while the host died of it', async () => {
    const { client } = await startClient();
    const dieOf = async (prompt: number[]): Promise<void> => {
      const host = hosts.at(-1) as PuppetHost;
      const sequence = client.send(0, receiver, spec(0, prompt));
      host.events.onMessage({ type: 'suspect-step', model: 0, id: sequence.id });
      client.abort(sequence);
      host.events.onExit('signal SIGSEGV');
      await vi.waitFor(() => expect(client.state).toBe('ready'), 2000);
    };
    await dieOf([1]);
    await dieOf([1]);
    expect(() => client.send(0, receiver, spec(0, [1]))).toThrow(
      expect.objectContaining({ code: 'request_quarantined' }),
    );
    client.send(0, receiver, spec(0, [2]));
  });

  it('acquits a prompt with the last of its samples', async () => {
    const { client } = await startClient();
    const dieBesides = async (): Promise<void> => {
      const host = hosts.at(-1) as PuppetHost;
      const first = client.send(0, receiver, spec(0, [1]));
      const second = client.send(0, receiver, spec(0, [1]));
      client.complete(first);
      host.events.onMessage({ type: 'suspect-step', model: 0, id: second.id });
      host.events.onExit('signal SIGSEGV');
      await vi.waitFor(() => expect(client.state).toBe('ready'), 2000);
    };
    await dieBesides();
    await dieBesides();
    expect(() => client.send(0, receiver, spec(0, [1]))).toThrow(
      expect.objectContaining({ code: 'request_quarantined' }),
    );
  });
});
