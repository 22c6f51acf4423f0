// The query tabs, which this browser stores.

import { memory } from "../../dom.ts";

/** The file of a tab, as it was read or written last. */
export type SavedQuery = { name: string; version: string; text: string };
export type Tab = { name: string; text: string; saved?: SavedQuery };

/** True if the text of a tab differs from its file. */
export const isChanged = ({ text, saved }: Tab): boolean =>
  saved !== undefined && saved.text.trimEnd() !== text.trimEnd();

const FIRST = `SELECT u.first_name, u.last_name, g.name AS gym, count(c.id) AS visits
FROM users u
JOIN gyms g ON g.id = u.gym_id
LEFT JOIN checkins c ON c.user_id = u.id
GROUP BY u.id, g.id
ORDER BY visits DESC;
`;

/** A list of at least one tab, and the index of the open one. */
export class Tabs {
  readonly list: [Tab, ...Tab[]];
  index: number;

  constructor() {
    this.list = memory.get<[Tab, ...Tab[]]>("sql:tabs", [{ name: "Query 1", text: FIRST }]);
    this.index = Math.min(memory.get("sql:open", 0), this.list.length - 1);
  }

  get open(): Tab {
    return this.list[this.index] ?? this.list[0];
  }

  choose(index: number): void {
    this.index = Math.max(0, Math.min(index, this.list.length - 1));
    memory.set("sql:open", this.index);
  }

  remember(): void {
    memory.set("sql:tabs", this.list);
  }

  /** Append a tab and open it; a saved query names its tab. */
  add(text: string, saved?: SavedQuery): void {
    this.list.push({ name: saved?.name ?? nextName(this.list), text, ...(saved ? { saved } : {}) });
    this.remember();
    this.choose(this.list.length - 1);
  }

  /**
   * Open a saved query: in the tab that shows its file already, unless the texts differ, otherwise in a new one. A tab
   * whose text was not changed gets the text of the file.
   */
  openSaved(query: SavedQuery): void {
    const index = this.list.findIndex(({ saved }) => saved?.name === query.name);
    const tab = this.list[index];
    if (!tab || (isChanged(tab) && tab.saved?.version !== query.version)) {
      this.add(query.text, query);
      return;
    }
    if (!isChanged(tab)) Object.assign(tab, { text: query.text, saved: query });
    this.remember();
    this.choose(index);
  }

  /** Close a tab. The last tab is replaced by an empty one; closing another tab leaves the open one open. */
  close(index: number): void {
    const next = this.index > index ? this.index - 1 : this.index;
    if (this.list.length === 1) this.list[0] = { name: "Query 1", text: "" };
    else this.list.splice(index, 1);
    this.remember();
    this.choose(next);
  }

  rename(tab: Tab, name: string): void {
    tab.name = name.trim() || tab.name;
    this.remember();
  }
}

/** Return `Query 4` if `Query 3` is the highest number in use. */
function nextName(tabs: Tab[]): string {
  const numbers = tabs.map(({ name }) => Number(/^Query (\d+)$/.exec(name)?.[1] ?? 0));
  return `Query ${Math.max(0, ...numbers) + 1}`;
}
