// The SQL page: tabs, an editor, and the results of one statement at a time.

import { button, h } from "../../dom.ts";
import type { Page } from "../../router.ts";
import { Editor } from "./editor.ts";
import { showHistory } from "./history.ts";
import { Results } from "./results.ts";
import { Runner } from "./run.ts";
import { SavedQueries } from "./saved.ts";
import { drawStrip, markChanged, stripButtons } from "./strip.ts";
import { type SavedQuery, Tabs } from "./tabs.ts";

export function sqlPage(): Page {
  const tabs = new Tabs();
  const results = new Results();
  const editor = new Editor(tabs.open, {
    run: () => void runner.run("rows"),
    explain: () => void runner.run("plan"),
    onEdit: (text) => {
      tabs.open.text = text;
      tabs.remember();
      markChanged(strip, tabs);
    },
  });
  const runner = new Runner(editor, results);
  const strip = h("div.tabs", { role: "tablist", "aria-label": "Queries" });
  const showOpen = (focus = true): void => {
    editor.show(tabs.open);
    drawStrip(strip, tabs, actions);
    if (focus) editor.focus();
  };
  const add = (text = "", saved?: SavedQuery): void => {
    tabs.add(text, saved);
    showOpen();
  };
  const open = (query: SavedQuery): void => {
    tabs.openSaved(query);
    editor.show(tabs.open);
    if (editor.text() !== tabs.open.text) editor.replace(0, editor.text().length, tabs.open.text);
    showOpen();
  };
  const saved = new SavedQueries(tabs, open, () => drawStrip(strip, tabs, actions));
  const close = (index: number): void => {
    tabs.close(index);
    showOpen();
  };
  const choose = (index: number, focus: boolean): void => {
    tabs.choose(index);
    showOpen(focus);
  };
  const actions = { add: () => add(), close, choose };
  const openHistory = (): void => showHistory((text) => add(text));
  drawStrip(strip, tabs, actions);
  const save = (): void => void saved.save(tabs.open);
  const showSaved = (): void => void saved.showList();
  const files = [
    button("Save", save, { title: "Alt+S" }),
    button("Queries", showSaved, { title: "Alt+Q", "aria-haspopup": "dialog" }),
    button("History", openHistory, { title: "Alt+H" }),
  ];
  const { controls, outcome } = runner;
  const toolbar = h("div.toolbar", controls, h("span.grow"), outcome, h("span.grow"), files);
  const tabButtons = stripButtons(tabs, actions);
  return {
    title: "SQL",
    element: h("section.sql", h("h1.sr", "SQL"), strip, tabButtons, editor.element, toolbar, results.element),
    leave: () => {
      void runner.stop();
      results.clear();
      editor.destroy();
    },
    keys: {
      "Alt+t": () => add(),
      "Alt+w": () => close(tabs.index),
      "Alt+h": openHistory,
      "Alt+s": save,
      "Alt+q": showSaved,
      "Alt+.": () => void runner.stop(),
      "Ctrl+Enter": () => void runner.run("rows"),
    },
  };
}
