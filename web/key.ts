/** The API key of this tab, and the dialog that asks for it. */
import { byId } from './dom.ts';
import { recall, remember } from './tab-storage.ts';

const storageName = 'stv-key';

export function currentKey(): string | undefined {
  return recall(storageName);
}

/** Resolves with whether there is a (new) key. */
export function askForKey(reason: string): Promise<boolean> {
  const dialog = byId('key-dialog', HTMLDialogElement);
  const input = byId('key', HTMLInputElement);
  byId('key-title', HTMLElement).textContent = reason;
  input.value = '';
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    const done = (): void => {
      const key = input.value.trim();
      const isGiven = dialog.returnValue === 'use' && key !== '';
      if (isGiven) remember(storageName, key);
      input.value = '';
      byId('key-button', HTMLButtonElement).hidden = currentKey() === undefined;
      resolve(isGiven);
    };
    dialog.addEventListener('close', done, { once: true });
  });
}
