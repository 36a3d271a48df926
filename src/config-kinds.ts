/** How the raw value of an option, a text of a flag or variable or JSON of the file, becomes a typed one, kind by kind. */
import { statSync } from 'node:fs';
import { isIP } from 'node:net';

export interface Kind<T> {
  readonly expects: string;
  /** Shown in the help beside the flag; absent for switches. */
  readonly placeholder?: string;
  /** `undefined` = refused. */
  readonly read: (raw: unknown) => T | undefined;
  /** What may be printed of a value that can hold a password. */
  readonly conceal?: (value: string) => string;
}

export function text(placeholder: string): Kind<string> {
  return matching(placeholder, 'a non-empty text', () => true);
}

export function optionalText(placeholder: string): Kind<string | undefined> {
  return text(placeholder);
}

export function integer(min: number, max: number): Kind<number> {
  return {
    expects: `an integer from ${min} to ${max}`,
    placeholder: 'n',
    read: (raw) => {
      const value = typeof raw === 'string' && /^-?\d{1,15}$/.test(raw.trim()) ? Number(raw) : raw;
      return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max ? value : undefined;
    },
  };
}

export function oneOf<const V extends readonly string[]>(values: V): Kind<V[number]> {
  return {
    expects: `one of ${values.join(', ')}`,
    placeholder: values.join('|'),
    read: (raw) => values.find((value) => value === raw),
  };
}

export const onOff: Kind<boolean> = {
  expects: 'true or false',
  read: (raw) => {
    if (typeof raw === 'boolean') return raw;
    if (raw === 'true' || raw === '1') return true;
    if (raw === 'false' || raw === '0' || raw === '') return false;
    return undefined;
  },
};

export const optionalUrl: Kind<string | undefined> = {
  ...matching('url', 'an http or https address', isHttpUrl),
  conceal: concealUrl,
};

/** A server and the name of its model; keys have variables of their own, so nothing secret belongs here. */
export const optionalRemote: Kind<string | undefined> = {
  ...matching(
    'url#model',
    'an http or https address without user, password and query, and the name of a model after #',
    (value) => {
      const { url } = /^(?:openai:)?(?<url>https?:\/\/[^\s#?@]{1,500})(?:#\S{1,200})?$/u.exec(value)?.groups ?? {};
      return url !== undefined && isHttpUrl(url);
    },
  ),
  conceal: concealUrl,
};

export const optionalDatabase: Kind<string | undefined> = {
  ...matching(
    'file|postgres://…',
    'a file or an address that begins with postgres://',
    (value) => !value.includes('://') || /^postgres(ql)?:\/\/./.test(value),
  ),
  conceal: (value) => (value.includes('://') ? concealUrl(value) : value),
};

export const optionalAddresses: Kind<string | undefined> = matching(
  'addresses',
  'IP addresses or networks such as 10.0.0.0/8, separated by commas',
  (value) => partsOf(value).every(isAddress),
);

export const optionalOrigins: Kind<string | undefined> = matching(
  'origins',
  'origins such as https://example.org, without a path, separated by commas',
  (value) => partsOf(value).every((origin) => isHttpUrl(origin) && new URL(origin).origin === origin),
);

export const optionalFile: Kind<string | undefined> = matching('file', 'a file that exists', (value) => {
  // a pipe of the shell is one as well
  return statSync(value, { throwIfNoEntry: false })?.isDirectory() === false;
});

function matching(placeholder: string, expects: string, isValid: (value: string) => boolean): Kind<string> {
  return {
    expects,
    placeholder,
    read: (raw) => (typeof raw === 'string' && raw.trim() !== '' && isValid(raw) ? raw : undefined),
  };
}

function partsOf(list: string): string[] {
  return list.split(',').map((part) => part.trim());
}

function isHttpUrl(value: string): boolean {
  return URL.canParse(value) && /^https?:$/.test(new URL(value).protocol);
}

/** What the proxy check of the HTTP framework takes: an address, a network by length or mask, or a name for several networks. */
function isAddress(part: string): boolean {
  if (['loopback', 'linklocal', 'uniquelocal'].includes(part)) return true;
  const [address = '', range, ...more] = part.split('/');
  const version = isIP(address);
  if (version === 0 || more.length > 0) return false;
  if (range === undefined) return true;
  if (version === 4 && isIP(range) === 4) return isMask(range);
  return /^\d{1,3}$/.test(range) && Number(range) >= 1 && Number(range) <= (version === 4 ? 32 : 128);
}

function isMask(address: string): boolean {
  const bits = address.split('.').map((byte) => Number(byte).toString(2).padStart(8, '0'));
  return /^1+0*$/.test(bits.join(''));
}

/** User, password and query of an address are hidden, also of one that is no address at all. */
function concealUrl(value: string): string {
  return value.replace(/^(.*?:\/\/)?.*@/s, '$1***@').replace(/\?[^#]*/s, '?***');
}
