import { describe, expect, it } from 'vitest';
import { createLiveText } from '../../../src/cli/live-text.ts';

describe('text of a model on a terminal', () => {
  it('steers nothing, however it is shown', () => {
    let shown = '';
    const live = createLiveText({ write: (text: string) => (shown += text) } as unknown as NodeJS.WriteStream);
    const evil = 'a\u001b]0;title\u0007\u009b2Jb\tc\n';
    live.piece(evil);
    live.line(evil);
    live.heading(evil);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must be absent
    expect(shown).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/);
    expect(shown.match(/a\uFFFD\]0;title\uFFFD\uFFFD2Jb\tc/g)).toHaveLength(3);
  });
});
