// The history of the statements run in this browser, the latest first.

import { button, type Child, dialog, h, memory, replace } from "../../dom.ts";

export type Past = { text: string; at: string; outcome?: string; failed?: string };

const NAME = "sql:history";
const LONGEST = 200;

const read = (): Past[] => memory.get<Past[]>(NAME, []);

export const remember = (past: Past): void => memory.set(NAME, [past, ...read()].slice(0, LONGEST));

/** Show the history. `choose` receives the text of the selected statement. */
export function showHistory(choose: (text: string) => void): void {
  const all = read();
  const list = h("ul.history");
  const label = "Search history";
  const input = h("input", { type: "search", "aria-label": label, placeholder: label, oninput: () => draw() });
  const draw = (): void => {
    const wanted = input.value.toLowerCase();
    const found = all.filter(({ text }) => text.toLowerCase().includes(wanted));
    replace(
      list,
      found.map((past) =>
        item(past, () => {
          box.close();
          choose(past.text);
        }),
      ),
    );
  };
  const forget = button("Clear history", () => {
    memory.forget(NAME);
    box.close();
  });
  const empty = h("p.muted", "No statements yet. The history is stored only in this browser.");
  const box = dialog("History", all.length ? [h("div.row", input, forget), list] : [empty], { class: "wide" });
  draw();
}

const item = (past: Past, onclick: () => void): HTMLElement =>
  h(
    "li",
    h(
      "button",
      { type: "button", onclick },
      h("code", past.text.length > 300 ? `${past.text.slice(0, 300)}…` : past.text),
      h("span.muted", past.at.replace("T", " ").slice(0, 16), described(past)),
    ),
  );

function described({ failed, outcome }: Past): Child {
  if (failed) return h("span.wrong", ` · ${failed}`);
  return outcome ? ` · ${outcome}` : "";
}
