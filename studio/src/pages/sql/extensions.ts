// The editor's extensions: PostgreSQL's SQL, completion, keys and colours.

import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { bracketMatching, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { lintKeymap } from "@codemirror/lint";
import { type Extension, Prec, type Transaction } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { cspNonce } from "../../dom.ts";
import { sqlWithCompletion } from "./completion.ts";

type Keys = { run: () => void; runAll: () => void; explain: () => void };

export const extensions = ({ run, runAll, explain }: Keys): Extension[] => [
  lineNumbers(),
  history(),
  drawSelection(),
  bracketMatching(),
  closeBrackets(),
  highlightActiveLine(),
  autocompletion({ icons: false }),
  sqlWithCompletion(),
  syntaxHighlighting(colours),
  EditorView.lineWrapping,
  EditorView.domEventHandlers({ beforeinput: replaceSelection }),
  EditorView.contentAttributes.of({ "aria-label": "SQL", spellcheck: "false" }),
  ...(cspNonce() ? [EditorView.cspNonce.of(cspNonce())] : []),
  Prec.highest(
    keymap.of([binding("Mod-Enter", run), binding("Alt-Enter", runAll), binding("Mod-Shift-Enter", explain)]),
  ),
  keymap.of([
    ...closeBracketsKeymap,
    ...defaultKeymap,
    ...historyKeymap,
    ...completionKeymap,
    ...lintKeymap,
    indentWithTab,
  ]),
];

const binding = (key: string, act: () => void): { key: string; run: () => boolean } => ({
  key,
  run: () => {
    act();
    return true;
  },
});

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--accent)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--code-text)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--code-number)" },
  { tag: [tags.comment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.typeName], color: "var(--code-type)" },
]);

/**
 * Replace the selection with the typed text. The browser would copy the style of the selection into an attribute, which
 * the page's content security policy forbids.
 */
function replaceSelection(event: InputEvent, view: EditorView): boolean {
  const { main } = view.state.selection;
  if (event.inputType !== "insertText" || event.data === null || main.empty || view.composing) return false;
  const { data } = event;
  event.preventDefault();
  const insert = (): Transaction =>
    view.state.update(view.state.replaceSelection(data), { userEvent: "input.type", scrollIntoView: true });
  const handlers = view.state.facet(EditorView.inputHandler);
  if (!handlers.some((handle) => handle(view, main.from, main.to, data, insert))) view.dispatch(insert());
  return true;
}
