// The SQL editor: a state for each tab, the statement to run, and error markers.

import { closeCompletion } from "@codemirror/autocomplete";
import { ensureSyntaxTree } from "@codemirror/language";
import { setDiagnostics } from "@codemirror/lint";
import { EditorState, type Extension } from "@codemirror/state";
import { EditorView } from "@codemirror/view";
import { h } from "../../dom.ts";
import { extensions } from "./extensions.ts";
import { offsetOf } from "./stream.ts";
import type { Tab } from "./tabs.ts";

/** A statement and its offset in the text of the tab. */
export type Statement = { text: string; from: number };
/** The location of an error, counted from 1. */
export type Place = { line: number; column: number; goTo: () => void };

type Actions = { run: () => void; explain: () => void; onEdit: (text: string) => void };

export class Editor {
  readonly element = h("div.editor-place", { id: "query", role: "tabpanel", "aria-label": "Query" });
  private readonly view: EditorView;
  private readonly states = new WeakMap<Tab, EditorState>();
  private readonly extensions: Extension[];
  private tab: Tab;

  constructor(tab: Tab, { run, explain, onEdit }: Actions) {
    this.tab = tab;
    const listener = EditorView.updateListener.of(({ docChanged, state }) => {
      if (docChanged) onEdit(state.doc.toString());
    });
    this.extensions = [...extensions(run, explain), listener];
    this.view = new EditorView({ state: this.stateOf(tab), parent: this.element });
  }

  private stateOf(tab: Tab): EditorState {
    return this.states.get(tab) ?? EditorState.create({ doc: tab.text, extensions: this.extensions });
  }

  /** Show a tab with the cursor and the undo history that it had before. */
  show(tab: Tab): void {
    // An open list of completions would be measured against the text of the other tab.
    closeCompletion(this.view);
    this.states.set(this.tab, this.view.state);
    this.view.setState(this.stateOf(tab));
    this.tab = tab;
  }

  focus(): void {
    this.view.focus();
  }

  destroy(): void {
    this.view.destroy();
  }

  /** Return the statement to run: the selection, or the statement at the cursor. */
  statement(): Statement {
    const { state } = this.view;
    const { main } = state.selection;
    if (!main.empty) return { text: state.sliceDoc(main.from, main.to), from: main.from };
    const statements: { from: number; to: number }[] = [];
    ensureSyntaxTree(state, state.doc.length, 500)
      ?.topNode.cursor()
      .iterate(({ name, from, to, type }) => {
        if (name === "Statement") statements.push({ from, to });
        return name === "Script" || type.isTop;
      });
    const found = statements.find(({ to }) => main.head <= to) ?? statements.at(-1);
    return found
      ? { text: state.sliceDoc(found.from, found.to), from: found.from }
      : { text: state.doc.toString(), from: 0 };
  }

  /** The name of the tab. */
  get name(): string {
    return this.tab.name;
  }

  text(): string {
    return this.view.state.doc.toString();
  }

  /** Replace a part of the text. */
  replace(from: number, to: number, insert: string): void {
    this.view.dispatch({ changes: { from, to, insert } });
  }

  clearError(): void {
    this.view.dispatch(setDiagnostics(this.view.state, []));
  }

  /** Underline the word at a position that PostgreSQL reported, and return its location. */
  markError({ text, from }: Statement, position: number, message: string): Place {
    const { doc } = this.view.state;
    const offset = Math.min(from + offsetOf(text, position), doc.length);
    const word = /^[\p{L}\p{N}_]+|^./su.exec(this.view.state.sliceDoc(offset, offset + 100))?.[0] ?? " ";
    const to = Math.min(doc.length, offset + word.length);
    this.view.dispatch(setDiagnostics(this.view.state, [{ from: offset, to, severity: "error", message }]));
    const line = doc.lineAt(offset);
    const goTo = (): void => {
      this.view.dispatch({ selection: { anchor: offset }, scrollIntoView: true });
      this.view.focus();
    };
    return { line: line.number, column: offset - line.from + 1, goTo };
  }
}
