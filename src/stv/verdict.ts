/** What one reading of the verdict words says. The verdict is elicited by the server, never parsed out of a text. */
export type Verdict = 'accept' | 'reject' | 'undetermined';
