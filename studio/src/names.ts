// Names of tables and columns in addresses, and keys of rows.

/** Write a name as a part of an address, without the characters that separate parts. The server does the same. */
export const encodedName = (name: string): string =>
  name.replace(/[%./,-]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);

/** Return the name that an address of a table shows: `users`, `billing.invoices`. */
export const shownName = (address: string): string => address.split(".").map(decodeURIComponent).join(".");

/** Return the values of the key's columns. The key of several columns is a JSON array. */
export const keyParts = (columns: string[], key: string): string[] =>
  columns.length === 1 ? [key] : (JSON.parse(key) as string[]);

/** Return the key as people read it: `7`, or `7 · BLUE` for one of several columns. */
export const shownKey = (key: string): string => {
  if (!key.startsWith('["')) return key;
  try {
    return (JSON.parse(key) as string[]).join(" · ");
  } catch {
    return key;
  }
};
