import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
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

describe('HostClient', () => {
  it('does not take an abort for a sign of life', async () => {
    const clock = { ms: 0 };
    const spawned: PuppetHost[] = [];
    const client = new HostClient({
      spawn: (events) => {
        const host = new PuppetHost(events);
        spawned.push(host);
        return host;
      },
      models: [],
      names: ['m'],
      hangAfterMs: 40,
      loadTimeoutMs: 1000,
      minRestartDelayMs: 60_000,
      maxRestartDelayMs: 60_000,
      now: () => clock.ms,
      emit: () => {},
    });
    const ready = client.start();
    const [host] = spawned;
    host?.ready();
    await ready;
    const sequence = client.send(0, { push: () => {}, fail: () => {} }, spec(0, [1]));
    host?.events.onMessage({ type: 'slots', model: 0, used: 0, cached: 0 }); // of an abort before
    clock.ms = 30;
    client.abort(sequence);
    client.abort(sequence);
    clock.ms = 50; // 50 since it said something, 20 since the abort
    await vi.waitFor(() => expect(host?.wasKilled).toBe(true), 2000);
    expect(host?.received.filter(({ type }) => type === 'abort')).toHaveLength(1);
    await client.close(new StvError('draining', 'The test is over.'));
  });
});
