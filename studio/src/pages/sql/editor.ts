// The SQL editor: a state for each tab, the statement to run, and error markers.

import { closeCompletion } from "@codemirror/autocomplete";
import { setDiagnostics } from "@codemirror/lint";
import { EditorState, type Extension } from "@codemirror/state";
import { EditorView } from "@codemirror/view";
import { h } from "../../dom.ts";
import { extensions } from "./extensions.ts";
import { charactersBefore, offsetOf } from "./stream.ts";
import type { Tab } from "./tabs.ts";

/** A text to run and its offset in the tab. With a cursor, in characters, only the statement there runs. */
export type Script = { text: string; from: number; cursor?: number };
/** The location of an error, counted from 1. */
export type Place = { line: number; column: number; goTo: () => void };

type Actions = { run: () => void; runAll: () => void; explain: () => void; onEdit: (text: string) => void };

export class Editor {
  readonly element = h("div.editor-place", { id: "query", role: "tabpanel", "aria-label": "Query" });
  private readonly view: EditorView;
  private readonly states = new WeakMap<Tab, EditorState>();
  private readonly extensions: Extension[];
  private tab: Tab;

  constructor(tab: Tab, { onEdit, ...keys }: Actions) {
    this.tab = tab;
    const listener = EditorView.updateListener.of(({ docChanged, state }) => {
      if (docChanged) onEdit(state.doc.toString());
    });
    this.extensions = [...extensions(keys), listener];
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

  /** Return the selection, or the whole text with the cursor; the server finds the statement there. */
  script(): Script {
    const { doc, selection } = this.view.state;
    const { main } = selection;
    if (!main.empty) return { text: this.view.state.sliceDoc(main.from, main.to), from: main.from };
    const text = doc.toString();
    return { text, from: 0, cursor: charactersBefore(text, main.head) };
  }

  /** Return all statements of the tab. */
  whole(): Script {
    return { text: this.view.state.doc.toString(), from: 0 };
  }

  /** Measure the editor again, after its page was away. */
  measure(): void {
    this.view.requestMeasure();
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

  /** Underline the word at a position in a script, in characters from 0, and return its location. */
  markError({ text, from }: Script, position: number, message: string): Place {
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
