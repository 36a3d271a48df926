/** Spans of runs for OpenTelemetry. Off unless an address is configured: then nothing of it is even loaded. */
import { type Config, flagName, isLoopback } from '../config.ts';
import { StvError } from '../errors.ts';
import { noSpan } from '../stv/spans.ts';
import type { Telemetry } from './telemetry.ts';

const off: Telemetry = { startRun: () => noSpan, startCall: () => noSpan, close: async () => {} };

/** Throws StvError `config_invalid` for an address that is none, or that `--offline` forbids. */
export async function openTelemetry({
  otlpEndpoint,
  offline,
}: Pick<Config, 'otlpEndpoint' | 'offline'>): Promise<Telemetry> {
  if (otlpEndpoint === undefined) return off;
  const url = URL.canParse(otlpEndpoint) ? new URL(otlpEndpoint) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    throw new StvError('config_invalid', `${flagName('otlpEndpoint')} must be an http or https address.`);
  }
  if (offline && !isLoopback(url.hostname)) {
    throw new StvError(
      'config_invalid',
      `--offline allows no telemetry to another machine, not to ${url.host} either.`,
    );
  }
  const { createTelemetry } = await import('./otlp.ts');
  return createTelemetry(url);
}
