// Saved queries: the files of the project, and the tabs that show them.

import { asRefused, get, type Problem, post, Refused } from "../../api.ts";
import { announce, button, dialog, h, replace } from "../../dom.ts";
import { problemBox } from "../../parts.ts";
import { isChanged, type SavedQuery, type Tab, type Tabs } from "./tabs.ts";

type Listing = {
  directory: string;
  queries: { name: string; description: string }[];
  /** The files that are no queries, with the reason. */
  skipped: string[];
};

const read = (name: string): Promise<SavedQuery> => get<SavedQuery>("/api/queries/text", { name });
const write = (name: string, text: string, version: string | null): Promise<SavedQuery> =>
  post<SavedQuery>("/api/queries", { name, text, version });

/** The saved queries of the page. `open` shows a query in a tab, `drawn` draws the tabs again. */
export class SavedQueries {
  private readonly tabs: Tabs;
  private readonly open: (query: SavedQuery) => void;
  private readonly drawn: () => void;

  constructor(tabs: Tabs, open: (query: SavedQuery) => void, drawn: () => void) {
    this.tabs = tabs;
    this.open = open;
    this.drawn = drawn;
  }

  // --- Save -------------------------------------------------------------------------------------------------------

  /** Save the text of a tab into its file, or ask for a name. */
  async save(tab: Tab): Promise<void> {
    const { saved } = tab;
    if (!saved) return this.saveAs(tab);
    if (!isChanged(tab)) return announce(`${saved.name} is saved.`);
    await this.attempt(tab, saved.name, saved.version);
  }

  private async attempt(tab: Tab, name: string, version: string | null): Promise<void> {
    try {
      this.stored(tab, await write(name, tab.text, version));
    } catch (error) {
      const { problem, status } = asRefused(error);
      if ("now" in problem) this.showConflict(tab, problem, problem.now as SavedQuery);
      else if (status === 404) await this.saveAs(tab, problem);
      else dialog("Not saved", [problemBox(problem)]);
    }
  }

  private stored(tab: Tab, saved: SavedQuery): void {
    tab.saved = saved;
    tab.name = saved.name;
    this.tabs.remember();
    this.drawn();
    announce(`Saved queries/${saved.name}.sql.`);
  }

  private async saveAs(tab: Tab, before?: Problem): Promise<void> {
    const name = h("input", { type: "text", required: true, value: /^Query \d+$/.test(tab.name) ? "" : tab.name });
    const problem = h("div", before && problemBox(before));
    const place = h("p.muted");
    const onsubmit = async (event: Event): Promise<void> => {
      event.preventDefault();
      try {
        const saved = await write(name.value.trim().normalize("NFC"), tab.text, null);
        box.close();
        this.stored(tab, saved);
      } catch (error) {
        replace(problem, problemBox(asRefused(error).problem));
        name.focus();
      }
    };
    const form = h(
      "form",
      { onsubmit: (event: Event) => void onsubmit(event) },
      h("label.field", "Name ", name),
      h("footer", h("button.primary", "Save")),
    );
    const box = dialog("Save the query", [problem, form, place]);
    name.focus();
    const { directory } = await get<Listing>("/api/queries");
    place.textContent = `Writes a file into ${directory}, for the team to share by git. The database is not changed.`;
  }

  /** Ask before a file is overwritten that changed on disk. */
  private showConflict(tab: Tab, problem: Problem, now: SavedQuery): void {
    const act = (label: string, done: () => void, kind = ""): HTMLElement =>
      button(
        label,
        () => {
          box.close();
          done();
        },
        { class: kind },
      );
    const box = dialog("Not saved", [
      problemBox(problem),
      h("h3", "The file on disk"),
      h("pre.whole", { tabindex: 0, "aria-label": "The file on disk" }, now.text.slice(0, 5000)),
      h(
        "footer",
        act("Open the file in a new tab", () => this.open(now)),
        act("Overwrite the file", () => void this.attempt(tab, now.name, now.version), "danger"),
      ),
    ]);
  }

  // --- List -------------------------------------------------------------------------------------------------------

  /** Show the queries of the directory. */
  async showList(): Promise<void> {
    const body = h("div", h("p.muted", "…"));
    const box = dialog("Saved queries", [body], { class: "wide saved" });
    try {
      replace(body, this.list(await get<Listing>("/api/queries"), box));
      body.querySelector("button")?.focus();
    } catch (error) {
      replace(body, problemBox(asRefused(error).problem));
    }
  }

  private list({ directory, queries, skipped }: Listing, box: HTMLDialogElement): HTMLElement {
    const again = (): void => {
      box.close();
      void this.showList();
    };
    return h(
      "div.saved-list",
      h("p.muted", queries.length ? `Files in ${directory}` : `No queries yet: ${directory} has no .sql files.`),
      h(
        "ul",
        queries.map(({ name, description }) => {
          const choose = async (): Promise<void> => {
            if (!(await this.explained(async () => this.open(await read(name))))) return;
            box.close();
          };
          const label = h("span", h("strong", name), " ", h("span.muted", { dir: "auto" }, description));
          return h(
            "li",
            h("button.open", { type: "button", onclick: () => void choose() }, label),
            button("Rename", () => this.rename(name, again), { "aria-label": `Rename ${name}`, class: "quiet" }),
            button("Delete", () => this.delete(name, again), { "aria-label": `Delete ${name}`, class: "quiet" }),
          );
        }),
      ),
      skipped.length > 0 && h("p.muted", "Not shown: ", skipped.join("; "), "."),
    );
  }

  private rename(name: string, done: () => void): void {
    const input = h("input", { type: "text", required: true, value: name });
    const work = async (): Promise<void> => {
      const { version } = await read(name);
      const to = input.value.trim().normalize("NFC");
      const renamed = await post<SavedQuery>("/api/queries/rename", { name, version, to });
      for (const tab of this.tabs.list.filter(({ saved }) => saved?.name === name)) {
        tab.saved = { ...(tab.saved ?? renamed), name: renamed.name };
        tab.name = renamed.name;
      }
    };
    this.ask(`Rename ${name}?`, [h("label.field", "New name ", input)], ["Rename", "primary"], work, done);
    input.select();
  }

  private delete(name: string, done: () => void): void {
    const work = async (): Promise<void> => {
      const { version } = await read(name);
      await post("/api/queries/delete", { name, version });
      for (const tab of this.tabs.list.filter(({ saved }) => saved?.name === name)) delete tab.saved;
    };
    const text = h("p", "The file is deleted. A tab that shows it stays open.");
    this.ask(`Delete ${name}?`, [text], ["Delete", "danger"], work, done);
  }

  private ask(
    title: string,
    body: HTMLElement[],
    [label, kind]: [string, string],
    work: () => Promise<void>,
    done: () => void,
  ): void {
    const problem = h("div");
    const onsubmit = async (): Promise<void> => {
      try {
        await work();
      } catch (error) {
        replace(problem, problemBox(asRefused(error).problem));
        return;
      }
      box.close();
      this.tabs.remember();
      this.drawn();
      done();
    };
    const submit = (event: Event): void => {
      event.preventDefault();
      void onsubmit();
    };
    const buttons = h(
      "footer",
      h("button", { class: kind }, label),
      button("Cancel", () => box.close()),
    );
    const box = dialog(title, [problem, h("form", { onsubmit: submit }, body, buttons)]);
  }

  private async explained(work: () => Promise<void>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      dialog("Not opened", [problemBox(error.problem)]);
      return false;
    }
  }
}
