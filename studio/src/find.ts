// What the palette finds for what is typed.

export type Choice = { name: string; hint: string; to: string };

const SHOWN = 15;

/** The choices whose name has `typed` in it: those that begin with it first, columns (`table.column`) last. */
export function matching(choices: Choice[], typed: string): Choice[] {
  const wanted = typed.trim().toLowerCase();
  const rank = ({ name }: Choice): number => (name.toLowerCase().startsWith(wanted) ? 0 : name.includes(".") ? 2 : 1);
  return choices
    .filter(({ name }) => name.toLowerCase().includes(wanted) && (wanted || !name.includes(".")))
    .sort((one, other) => rank(one) - rank(other))
    .slice(0, SHOWN);
}
