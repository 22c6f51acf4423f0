// The search of the palette.

export type Choice = { name: string; hint: string; to: string; isTable?: boolean };

const SHOWN = 15;

/** Return the choices whose name contains `typed`: first those that start with it, last the columns (`table.column`). */
export function matching(choices: Choice[], typed: string): Choice[] {
  const wanted = typed.trim().toLowerCase();
  const isColumn = ({ name, isTable }: Choice): boolean => !isTable && name.includes(".");
  const rank = (choice: Choice): number =>
    choice.name.toLowerCase().startsWith(wanted) ? 0 : isColumn(choice) ? 2 : 1;
  return choices
    .filter((choice) => choice.name.toLowerCase().includes(wanted) && (wanted || !isColumn(choice)))
    .sort((one, other) => rank(one) - rank(other))
    .slice(0, SHOWN);
}
