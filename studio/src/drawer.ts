// The list of tables as a drawer, on a window that is too narrow for it beside the page.

import { button, dialog } from "./dom.ts";

/** The width up to which the style sheet hides the list. */
const NARROW = matchMedia("(max-width: 1000px)");

/** Return the button that opens `list` as a drawer. Closed, the list is the first in `home`, before the page `main`. */
export function drawerButton(list: HTMLElement, home: HTMLElement, main: HTMLElement): HTMLElement {
  const opener = button("☰", () => open(), {
    class: "drawer-button quiet",
    "aria-label": "Tables",
    "aria-haspopup": "dialog",
  });
  const open = (): void => {
    let followed = false;
    const onClick = ({ target }: Event): void => {
      followed ||= target instanceof Element && target.closest("a") !== null;
    };
    const box = dialog("Tables", [list], { class: "drawer" });
    const close = (): void => box.close();
    list.addEventListener("click", onClick);
    NARROW.addEventListener("change", close);
    box.addEventListener("close", () => {
      list.removeEventListener("click", onClick);
      NARROW.removeEventListener("change", close);
      home.prepend(list);
      if (followed) main.focus();
    });
    list.querySelector<HTMLElement>("[aria-current], a")?.focus();
  };
  return opener;
}
