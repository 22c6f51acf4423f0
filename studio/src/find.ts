// The search of the palette.

export type Choice = { name: string; hint: string; to: string };

const SHOWN = 15;

/** Return the choices whose name contains `typed`: first those that start with it, last the columns (`table.column`). */
export function matching(choices: Choice[], typed: string): Choice[] {
  const wanted = typed.trim().toLowerCase();
  const rank = ({ name }: Choice): number => (name.toLowerCase().startsWith(wanted) ? 0 : name.includes(".") ? 2 : 1);
  return choices
    .filter(({ name }) => name.toLowerCase().includes(wanted) && (wanted || !name.includes(".")))
    .sort((one, other) => rank(one) - rank(other))
    .slice(0, SHOWN);
}
