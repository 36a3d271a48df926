/** The page in a real browser, over a scripted engine and a store on disk. Needs `npm run build` and a Chromium. */
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { loadApiKeys } from '../../src/api-keys.ts';
import { openDatabase } from '../../src/store/open-database.ts';
import { SqlRunStore } from '../../src/store/sql-run-store.ts';
import { createApp, listen, type TestApp, type TestAppOptions } from '../http/build-app.ts';
import { lessonAttempts, lessonEngine, lessonProblem } from '../support/lesson.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const executablePath = process.env['STV_CHROMIUM'] ?? '/usr/bin/chromium';

/** The page's own globals, for functions that run there; the tests themselves run without a DOM. */
interface PageScope {
  readonly document: {
    readonly activeElement: { readonly id: string; readonly textContent: string } | null;
    readonly documentElement: { readonly scrollWidth: number };
    readonly body: unknown;
  };
  readonly localStorage: { readonly length: number };
  readonly navigator: { readonly clipboard: { readText(): Promise<string> } };
  getComputedStyle(element: unknown): { readonly backgroundColor: string };
}

let browser: Browser;

beforeAll(async () => {
  if (!existsSync(executablePath)) throw new Error(`There is no Chromium at ${executablePath}; set STV_CHROMIUM.`);
  // a container's user may not make the namespaces that Chromium's own sandbox wants
  browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
});

afterAll(() => browser.close());

interface Stage {
  readonly page: Page;
  readonly context: BrowserContext;
  readonly app: TestApp;
  readonly url: string;
  readonly pace: { delayMs: number };
  /** What the browser complained about: errors of scripts, and what the policy refused. */
  readonly complaints: string[];
}

async function open(options: TestAppOptions & { readonly isStoring?: boolean } = {}): Promise<Stage> {
  const pace = { delayMs: 1 };
  const { isStoring = true, ...rest } = options;
  const store = isStoring ? new SqlRunStore(await openDatabase(path.join(temporaryFolder(), 'runs.db'))) : undefined;
  const app = await createApp({ engine: lessonEngine(pace), ...(store === undefined ? {} : { store }), ...rest });
  const url = await listen(app.app);
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
  onTestFinished(async () => {
    await context.close();
    app.app.server.closeAllConnections();
    await app.app.close();
    await store?.close();
  });
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  await page.goto(url);
  return { page, context, app, url, pace, complaints };
}

async function write(page: Page, problem = lessonProblem): Promise<void> {
  await page.getByLabel('Problem', { exact: true }).fill(problem);
}

function start(page: Page): Promise<void> {
  return page.getByRole('button', { name: 'Start' }).click();
}

async function status(page: Page, text: string): Promise<void> {
  await page.locator('#status', { hasText: text }).waitFor({ timeout: 20_000 });
}

/** Runs in the page. */
function isInSight(element: { getBoundingClientRect(): { readonly top: number; readonly bottom: number } }): boolean {
  const { top, bottom } = element.getBoundingClientRect();
  return top >= 0 && bottom <= (globalThis as unknown as { readonly innerHeight: number }).innerHeight;
}

/** What stands in the attempts on the page, from top to bottom, without the helps for reading aloud. */
function attempts(page: Page): Promise<string[]> {
  return page.locator('.round .work').evaluateAll((elements) =>
    elements.map((element) => {
      const copy = element.cloneNode(true) as typeof element;
      for (const help of copy.querySelectorAll('.visually-hidden, .step-label')) help.remove();
      return copy.textContent ?? '';
    }),
  );
}

describe('a run', () => {
  it('shows each round side by side, marks the wrong step, and ends with the answer', async () => {
    const { page, complaints } = await open();
    await write(page);
    await start(page);
    await status(page, 'Accepted');
    expect(await attempts(page)).toEqual(lessonAttempts.map(({ text }) => text));
    expect(await page.locator('.round h2').allTextContents()).toEqual(['First attempt', 'Revision 1', 'Revision 2']);
    expect(await page.locator('.feedback').allTextContents()).toEqual(lessonAttempts.map(({ feedback }) => feedback));
    expect(await page.locator('mark').allTextContents()).toEqual([
      'First wrong step, step 1: 4x - 3 + 5 = 2x + 9 (end of the wrong step)',
      'First wrong step, step 3: 2x = 2 (end of the wrong step)',
    ]);
    const bars = page.locator('.round [role=meter]');
    expect(await bars.evaluateAll((all) => all.map((bar) => bar.getAttribute('aria-valuetext')))).toEqual([
      '7 %',
      '31 %',
      '94 %',
    ]);
    const width = await bars
      .nth(1)
      .locator('.bar-fill')
      .evaluate((fill) => fill.style.width);
    expect(width).toBe('31%');
    expect(await page.locator('.answer strong').textContent()).toBe('8');
    expect(await page.locator('#announcer').textContent()).toContain('Accepted. after 2 revisions Answer: 8.');
    const both = await page
      .locator('.round')
      .first()
      .locator('.side')
      .evaluateAll((sides) => sides.map((side) => Math.round(side.getBoundingClientRect().top)));
    expect(both[0]).toBe(both[1]);
    expect(complaints).toEqual([]);
  });

  it('goes on when the page is reloaded in its middle', async () => {
    const { page, pace, app } = await open();
    pace.delayMs = 60;
    await write(page);
    await start(page);
    await page.locator('.round h2', { hasText: 'Revision 1' }).waitFor({ timeout: 20_000 });
    const address = page.url();
    expect(address).toContain('?run=slv_');
    const before = await page.locator('.round').count();
    await page.reload();
    await page
      .locator('.round')
      .nth(before - 1)
      .waitFor();
    expect(page.url()).toBe(address);
    expect(await page.locator('#run-heading').textContent()).toBe(lessonProblem);
    expect(app.runs.numLive).toBe(1);
    // what was there is there again, once
    expect((await attempts(page))[0]).toBe(lessonAttempts[0]?.text);
    pace.delayMs = 1;
    await status(page, 'Accepted');
    expect(await attempts(page)).toEqual(lessonAttempts.map(({ text }) => text));
    // the run was one run all along
    expect(app.engine.requests.filter(({ model }) => model === 'generator')).toHaveLength(3);
  });

  it('can be stopped and taken up again from its best attempt', async () => {
    const { page, pace, app } = await open();
    await write(page);
    pace.delayMs = 40;
    await start(page);
    await page.locator('.round h2', { hasText: 'Revision 1' }).waitFor({ timeout: 20_000 });
    await page.getByRole('button', { name: 'Stop' }).click();
    await status(page, 'Stopped');
    expect(app.engine.numOpen).toBe(0);
    const stopped = page.url();
    pace.delayMs = 1;
    await page.getByRole('button', { name: 'Resume' }).click();
    await status(page, 'Accepted');
    expect(page.url()).not.toBe(stopped);
    expect(await page.locator('.round h2').first().textContent()).toBe('The given attempt');
    expect(await attempts(page)).toEqual(lessonAttempts.map(({ text }) => text));
    // the stopped one is still there
    await page.locator('#run-note').getByRole('link', { name: 'an earlier run' }).click();
    await status(page, 'Stopped');
    expect(page.url()).toBe(stopped);
  });

  it('is listed under the form and opens again from there', async () => {
    const { page, url, app, complaints } = await open();
    expect(await page.locator('#recent').isVisible()).toBe(false);
    await write(page);
    await start(page);
    await status(page, 'Accepted');
    expect(await page.locator('#recent').isVisible()).toBe(false);
    const first = page.url();
    await page.getByRole('button', { name: 'New problem' }).click();
    const entries = page.locator('#recent-list li');
    await entries.first().waitFor();
    expect(await entries.allTextContents()).toEqual([expect.stringContaining(`${lessonProblem}Accepted · 8`)]);
    await page.getByRole('link', { name: lessonProblem }).click();
    await status(page, 'Accepted');
    expect(page.url()).toBe(first);
    expect(app.engine.requests.filter(({ model }) => model === 'generator')).toHaveLength(3);
    await page.goto(url);
    await entries.first().waitFor();
    expect(complaints).toEqual([]);
  });

  it('checks an attempt of the student first', async () => {
    const { page, app } = await open();
    await page.locator('#examples').selectOption({ label: 'The last step: 4(x - 3) + 5 = 2x + 9' });
    await page.getByRole('button', { name: 'Use this example' }).click();
    const own = lessonAttempts[1]?.text ?? '';
    await page.getByLabel('Your attempt, one step a line').fill(own);
    await start(page);
    await status(page, 'Accepted');
    expect(await attempts(page)).toEqual([own, lessonAttempts[2]?.text]);
    expect(app.engine.requests[0]?.model).toBe('verifier');
  });

  it('shows chains as tabs and budgets as bars', async () => {
    const { page } = await open();
    await write(page);
    await page.locator('#options summary').click();
    await page.getByLabel('Chains side by side').fill('3');
    await page.getByLabel('Token budget').fill('100000');
    await page.getByLabel('Time limit in seconds').fill('600');
    await page.getByLabel('Accept after').selectOption('score');
    await page.getByLabel('Probability of at least').fill('0.9');
    await start(page);
    await status(page, 'Accepted');
    expect(await page.getByRole('tab').count()).toBe(3);
    expect(await page.locator('.meter .figure').first().textContent()).toMatch(/^\d+ of 100000$/);
    await page.getByRole('tab', { selected: true }).focus();
    await page.keyboard.press('End');
    expect(await page.getByRole('tab', { selected: true }).textContent()).toContain('Chain 3');
    expect(await page.locator('#chain-2').isVisible()).toBe(true);
    expect(await page.locator('#chain-0').isVisible()).toBe(false);
  });

  it('without a store runs all the same and says what that means', async () => {
    const { page, app, pace } = await open({ isStoring: false });
    await write(page);
    pace.delayMs = 40;
    await start(page);
    await page.locator('#run-note', { hasText: 'keeps no runs' }).waitFor({ timeout: 20_000 });
    expect(page.url()).not.toContain('run=');
    await page.getByRole('button', { name: 'New problem' }).click();
    // nobody waits for it any more
    await expect.poll(() => app.runs.numLive, { timeout: 10_000 }).toBe(0);
  });
});

describe('the page', () => {
  it('works from the keyboard alone', async () => {
    const { page, pace } = await open();
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => (globalThis as unknown as PageScope).document.activeElement?.textContent)).toBe(
      'Skip to the content',
    );
    await page.getByLabel('Problem', { exact: true }).focus();
    await page.keyboard.type(lessonProblem);
    pace.delayMs = 40;
    await page.keyboard.press('Control+Enter');
    await page.locator('#stop').waitFor({ timeout: 20_000 });
    expect(await page.evaluate(() => (globalThis as unknown as PageScope).document.activeElement?.id)).toBe(
      'run-heading',
    );
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => (globalThis as unknown as PageScope).document.activeElement?.id)).toBe('stop');
    await page.keyboard.press('Enter');
    await status(page, 'Stopped');
  });

  it('leaves the typed problem alone while an example is chosen', async () => {
    const { page } = await open();
    await write(page, 'my own');
    const problem = page.getByLabel('Problem', { exact: true });
    await page.getByLabel('Example', { exact: true }).focus();
    await page.keyboard.press('ArrowDown');
    expect(await problem.inputValue()).toBe('my own');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    expect(await problem.inputValue()).toBe('4(x - 3) + 5 = 2x + 9');
  });

  it('skips to the content without leaving a run that ends with the page', async () => {
    const { page, pace, app } = await open({ isStoring: false });
    pace.delayMs = 150;
    await write(page);
    await start(page);
    await page.locator('.round h2', { hasText: 'Revision 1' }).waitFor({ timeout: 20_000 });
    const address = page.url();
    await page.locator('#skip').focus();
    await page.keyboard.press('Enter');
    expect(await page.evaluate(() => (globalThis as unknown as PageScope).document.activeElement?.id)).toBe('main');
    expect(page.url()).toBe(address);
    pace.delayMs = 1;
    await status(page, 'Accepted');
    expect(app.engine.requests.filter(({ model }) => model === 'generator')).toHaveLength(3);
  });

  it('fits a phone: nothing wider than the screen, the sides one below the other', async () => {
    const { page, pace } = await open();
    await page.setViewportSize({ width: 360, height: 720 });
    await write(page);
    await page.locator('#options summary').click();
    const widest = () => page.evaluate(() => (globalThis as unknown as PageScope).document.documentElement.scrollWidth);
    expect(await widest()).toBeLessThanOrEqual(360);
    pace.delayMs = 40;
    await start(page);
    await page.locator('.round h2', { hasText: 'Revision 1' }).waitFor({ timeout: 20_000 });
    // the newest round is in sight, and so is the way to stop
    await expect.poll(() => page.locator('.round').last().locator('.work').evaluate(isInSight)).toBe(true);
    expect(await page.locator('#stop').evaluate(isInSight)).toBe(true);
    pace.delayMs = 1;
    await status(page, 'Accepted');
    expect(await widest()).toBeLessThanOrEqual(360);
    const tops = await page
      .locator('.round')
      .first()
      .locator('.side')
      .evaluateAll((sides) => sides.map((side) => side.getBoundingClientRect().top));
    expect(tops[1]).toBeGreaterThan(tops[0] as number);
  });

  it('is dark where the system is', async () => {
    const { page } = await open();
    const paper = () =>
      page.evaluate(() => {
        const scope = globalThis as unknown as PageScope;
        return scope.getComputedStyle(scope.document.body).backgroundColor;
      });
    await page.emulateMedia({ colorScheme: 'light' });
    expect(await paper()).toBe('rgb(247, 246, 243)');
    await page.emulateMedia({ colorScheme: 'dark' });
    expect(await paper()).toBe('rgb(22, 24, 28)');
  });

  it('shows text of models and users as text, and asks nobody else for anything', async () => {
    const { page, url, complaints } = await open({
      engine: {
        reply: () => '<img src=x onerror=alert(1)><script>alert(1)</script> <mark>Step 1</mark>: wrong.',
        accept: () => 0.1,
      },
    });
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).origin));
    await write(page, '<b>1 + 1</b>');
    await start(page);
    await status(page, 'Not accepted');
    expect(await page.locator('#run-heading').textContent()).toBe('<b>1 + 1</b>');
    expect(await page.locator('.round img, .round script, .feedback mark').count()).toBe(0);
    expect(new Set(asked)).toEqual(new Set([url]));
    expect(complaints).toEqual([]);
  });

  it('says what the server has against a request, at its field', async () => {
    const { page, app } = await open();
    await write(page);
    await page.locator('#options summary').click();
    await page.getByLabel('Accept after').selectOption('votes');
    await page.getByLabel('Accepts needed').fill('6');
    await start(page);
    await page.locator('#form-error', { hasText: '`accept.k` must be at most' }).waitFor();
    expect(await page.evaluate(() => (globalThis as unknown as PageScope).document.activeElement?.id)).toBe('rule-k');
    await page.getByLabel('Accepts needed').fill('65');
    await start(page);
    await page.locator('#form-error', { hasText: 'Accepts needed' }).waitFor();
    await page.getByLabel('Accept after').selectOption('score');
    await page.getByLabel('Probability of at least').fill(''); // which is not 0, with which everything is accepted
    await start(page);
    await page.locator('#form-error', { hasText: 'Probability of at least' }).waitFor();
    expect(app.engine.requests).toHaveLength(0);
  });
});

describe('keys and links', () => {
  function keys() {
    const file = path.join(temporaryFolder(), 'keys');
    writeFileSync(file, 'secret-a infer a\n');
    return loadApiKeys(file);
  }

  it('asks for a key, and again when it is wrong, and goes on with the run', async () => {
    const { page } = await open({ keys: keys() });
    await write(page);
    await start(page);
    await page.getByLabel('API key').fill('secret-a\u200b'); // copied along with an invisible character
    await page.keyboard.press('Enter');
    await page.locator('#key:invalid').waitFor();
    await page.getByLabel('API key').fill('wrong');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'The server does not know this key' }).waitFor();
    await page.getByLabel('API key').fill('secret-a');
    await page.keyboard.press('Enter');
    await status(page, 'Accepted');
    // the tab still knows it after a reload
    await page.reload();
    await status(page, 'Accepted');
    expect(await page.evaluate(() => (globalThis as unknown as PageScope).localStorage.length)).toBe(0);
  });

  it('a copied link shows the run to somebody without a key, and lets them do nothing else', async () => {
    const { page, url } = await open({ keys: keys() });
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write'], { origin: url });
    await write(page);
    await start(page);
    await page.getByLabel('API key').fill('secret-a');
    await page.keyboard.press('Enter');
    await status(page, 'Accepted');
    await page.getByRole('button', { name: 'Copy link' }).click();
    await page.locator('#notice', { hasText: 'The link is copied' }).waitFor();
    const link = await page.evaluate(() => (globalThis as unknown as PageScope).navigator.clipboard.readText());
    const stranger = await browser.newContext();
    onTestFinished(() => stranger.close());
    const other = await stranger.newPage();
    await other.goto(link);
    await status(other, 'Accepted');
    expect(await attempts(other)).toEqual(lessonAttempts.map(({ text }) => text));
    expect(await other.locator('#run-note').textContent()).toContain('shared run');
    for (const name of ['Stop', 'Resume', 'Go on from here', 'Copy link']) {
      expect(await other.getByRole('button', { name }).isVisible()).toBe(false);
    }
  });

  it('a link to a run that is gone says so and offers the form', async () => {
    const { page, url } = await open();
    await page.goto(`${url}/?run=slv_01AAAAAAAAAAAAAAAAAAAAAAAA`);
    await page.locator('#notice', { hasText: 'There is no such run' }).waitFor();
    expect(await page.locator('#composer').isVisible()).toBe(true);
    expect(page.url()).toBe(`${url}/`);
  });
});
