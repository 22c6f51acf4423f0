// The strip of tabs above the editor.

import { button, h, replace } from "../../dom.ts";
import { isChanged, type Tab, type Tabs } from "./tabs.ts";

type Actions = {
  /** Open a tab, and move the focus to its editor if `focus` is true. */
  choose: (index: number, focus: boolean) => void;
  add: () => void;
  close: (index: number) => void;
  hasTransaction: (tab: Tab) => boolean;
};

/** Draw the tabs into the strip. */
export function drawStrip(strip: HTMLElement, tabs: Tabs, actions: Actions): void {
  const redraw = (): void => drawStrip(strip, tabs, actions);
  replace(
    strip,
    tabs.list.map((tab, index) => {
      const isOpen = index === tabs.index;
      const label = button(labelOf(tab), () => actions.choose(index, true), {
        role: "tab",
        "aria-selected": String(isOpen),
        "aria-controls": "query",
        tabindex: isOpen ? 0 : -1,
        title: "Double-click or F2 to rename",
      });
      if (actions.hasTransaction(tab)) label.append(h("span.open-transaction", h("span.sr", ", open transaction")));
      const rename = (): void => editName(tabs, tab, label, redraw);
      label.addEventListener("dblclick", rename);
      label.addEventListener("keydown", (event) => {
        const act = keyActions(tabs, index, actions, rename, strip)[event.key];
        if (!act) return;
        event.preventDefault();
        act();
      });
      return label;
    }),
  );
}

/** A dot marks a tab whose text differs from its file. */
const labelOf = (tab: Tab): string => (isChanged(tab) ? `${tab.name} •` : tab.name);

/** Mark the open tab after its text has changed. */
export function markChanged(strip: HTMLElement, tabs: Tabs): void {
  const text = strip.children[tabs.index]?.firstChild;
  if (text && text.textContent !== labelOf(tabs.open)) text.textContent = labelOf(tabs.open);
}

/** The buttons next to the strip. */
export const stripButtons = (tabs: Tabs, { add, close }: Actions): HTMLElement =>
  h(
    "div.tab-buttons",
    button("+", add, { "aria-label": "New tab", title: "Alt+T", class: "quiet" }),
    button("×", () => close(tabs.index), { "aria-label": "Close tab", title: "Alt+W", class: "quiet" }),
  );

function keyActions(
  { list }: Tabs,
  index: number,
  { choose, close }: Actions,
  rename: () => void,
  strip: HTMLElement,
): Record<string, (() => void) | undefined> {
  const walk = (step: number): void => {
    choose((index + step + list.length) % list.length, false);
    strip.querySelector<HTMLElement>('[aria-selected="true"]')?.focus();
  };
  return { F2: rename, Delete: () => close(index), ArrowRight: () => walk(1), ArrowLeft: () => walk(-1) };
}

/** Replace a tab's name by a text field. Enter or leaving the field renames the tab; Escape cancels. */
function editName(tabs: Tabs, tab: Tab, label: HTMLElement, done: () => void): void {
  const input = h("input", { type: "text", value: tab.name, "aria-label": "Tab name" });
  input.addEventListener("blur", () => {
    tabs.rename(tab, input.value);
    done();
  });
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") input.value = tab.name;
    if (event.key === "Enter" || event.key === "Escape") input.blur();
  });
  label.replaceWith(input);
  input.select();
}
