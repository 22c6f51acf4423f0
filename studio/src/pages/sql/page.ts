// The SQL page: tabs, an editor, and for each tab a session on the server with its results.

import { button, h, replace } from "../../dom.ts";
import type { Page } from "../../router.ts";
import { onTransactions, transactionOf } from "../../transactions.ts";
import { askToClose } from "./closing.ts";
import { loadNames } from "./completion.ts";
import { Editor } from "./editor.ts";
import { showHistory } from "./history.ts";
import { Runner } from "./run.ts";
import { SavedQueries } from "./saved.ts";
import { watchSessions } from "./session-bar.ts";
import { drawStrip, markChanged, stripButtons } from "./strip.ts";
import { type SavedQuery, type Tab, Tabs } from "./tabs.ts";

let kept: SqlPage | undefined;

/** Return the page, which is made once: its results, sessions and running statements stay while others are shown. */
export function sqlPage(): Page {
  if (kept) requestAnimationFrame(() => kept?.editor.measure());
  kept ??= new SqlPage();
  return kept.page;
}

class SqlPage {
  readonly page: Page;
  readonly editor: Editor;
  private readonly tabs = new Tabs();
  private readonly runners = new Map<Tab, Runner>();
  private readonly saved = new SavedQueries(
    this.tabs,
    (query) => this.openSaved(query),
    () => this.drawStrip(),
  );
  private readonly strip = h("div.tabs", { role: "tablist", "aria-label": "Queries" });
  private readonly toolbar = h("div.toolbar");
  private readonly below = h("div.tab-results");
  private readonly files: HTMLButtonElement[];
  private readonly actions = {
    add: (): void => this.add(),
    close: (index: number): void => this.close(index),
    choose: (index: number, focus: boolean): void => {
      this.tabs.choose(index);
      this.showOpen(focus);
    },
    hasTransaction: (tab: Tab): boolean => transactionOf(this.runners.get(tab)?.session.id ?? "") !== undefined,
  };

  constructor() {
    const openHistory = (): void => showHistory((text) => this.add(text));
    const save = (): void => void this.saved.save(this.tabs.open);
    const showSaved = (): void => void this.saved.showList();
    this.files = [
      button("Save", save, { title: "Alt+S" }),
      button("Queries", showSaved, { title: "Alt+Q", "aria-haspopup": "dialog" }),
      button("History", openHistory, { title: "Alt+H" }),
    ];
    this.editor = new Editor(this.tabs.open, {
      run: () => void this.runner.run("rows"),
      runAll: () => void this.runner.runAll(),
      explain: () => void this.runner.run("plan"),
      onEdit: (text) => this.onEdit(text),
    });
    this.drawStrip();
    this.drawRunner();
    loadNames();
    // Drawn again, the strip would lose the focus.
    onTransactions(() => this.strip.contains(document.activeElement) || this.drawStrip());
    watchSessions(() => [...this.runners.values()].map(({ session }) => session));
    const keys = {
      "Alt+t": () => this.add(),
      "Alt+w": () => this.close(this.tabs.index),
      "Alt+h": openHistory,
      "Alt+s": save,
      "Alt+q": showSaved,
      "Alt+.": () => void this.runner.stop(),
      "Ctrl+Enter": () => void this.runner.run("rows"),
      "Alt+Enter": () => void this.runner.runAll(),
    };
    this.page = { title: "SQL", element: this.draw(), keys };
  }

  private draw(): HTMLElement {
    const { strip, editor, toolbar, below } = this;
    const tabButtons = stripButtons(this.tabs, this.actions);
    return h("section.sql", h("h1.sr", "SQL"), strip, tabButtons, editor.element, toolbar, below);
  }

  /** The runner of the open tab. */
  private get runner(): Runner {
    const tab = this.tabs.open;
    const show = (): void => this.actions.choose(this.tabs.list.indexOf(tab), false);
    const editor = (): Editor | null => (this.tabs.open === tab ? this.editor : null);
    const runner = this.runners.get(tab) ?? new Runner(tab, editor, show);
    this.runners.set(tab, runner);
    return runner;
  }

  private onEdit(text: string): void {
    this.tabs.open.text = text;
    this.tabs.remember();
    markChanged(this.strip, this.tabs);
  }

  private drawStrip(): void {
    drawStrip(this.strip, this.tabs, this.actions);
  }

  private drawRunner(): void {
    const { controls, outcome, session, results } = this.runner;
    replace(this.toolbar, controls, h("span.grow"), outcome, h("span.grow"), this.files);
    for (const runner of this.runners.values()) runner.results.visible = runner.results === results;
    replace(this.below, session.element, results.element);
  }

  private showOpen(focus = true): void {
    this.editor.show(this.tabs.open);
    this.drawStrip();
    this.drawRunner();
    if (focus) this.editor.focus();
  }

  private add(text = "", saved?: SavedQuery): void {
    this.tabs.add(text, saved);
    this.showOpen();
  }

  private openSaved(query: SavedQuery): void {
    this.tabs.openSaved(query);
    this.editor.show(this.tabs.open);
    const text = this.editor.text();
    if (text !== this.tabs.open.text) this.editor.replace(0, text.length, this.tabs.open.text);
    this.showOpen();
  }

  /** Close a tab; ask before its open transaction is rolled back. */
  private close(index: number): void {
    const tab = this.tabs.list[index];
    const runner = tab && this.runners.get(tab);
    if (!tab) return;
    if (runner?.session.hasWork) {
      this.actions.choose(index, false);
      askToClose(tab, runner, () => this.drop(tab));
    } else this.drop(tab);
  }

  private drop(tab: Tab): void {
    const index = this.tabs.list.indexOf(tab);
    if (index < 0) return;
    this.runners.get(tab)?.close();
    this.runners.delete(tab);
    this.tabs.close(index);
    this.showOpen();
  }
}
