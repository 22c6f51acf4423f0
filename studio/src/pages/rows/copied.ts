// The value that was copied last from a cell of the studio, which is no block of cells even if it contains tabs.

let value: string | null = null;

export function rememberCopied(text: string): string {
  value = text;
  return text;
}

export const copiedValue = (): string | null => value;
