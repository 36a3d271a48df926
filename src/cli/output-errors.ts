/**
 * What happens when nobody takes the output: a full disk under the log, a closed pipe. Without a listener Node ends the process
 * at the first line that cannot be written.
 */

/**
 * What goes to stderr is for people, and its loss never ends a command. stdout is what a command is asked for: it ends quietly when its reader stops
 * (`| head`), and with the error of anything else, unless `servesOn` says that its work lies elsewhere.
 */
export function handleOutputErrors({ servesOn }: { readonly servesOn: () => boolean }): void {
  process.stderr.on('error', () => {});
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (servesOn()) return;
    if (error.code !== 'EPIPE') throw error;
    process.exit();
  });
}
