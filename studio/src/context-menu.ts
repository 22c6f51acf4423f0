// A menu at a point of the page, opened by the right mouse button, a long press, or a key.

import { button, h } from "./dom.ts";
import { keyName } from "./keys.ts";

/** The name of an action, the action, and the key that does the same without the menu. */
export type Choice = [label: string, act: () => void, key?: string];
type Point = { x: number; y: number };

/** The keys that open the menu of the focused element. */
export const MENU_KEYS = ["ContextMenu", "Shift+F10"];

/**
 * Show a menu of groups of actions. Escape, Tab, or a click elsewhere closes it. It calls `back`, which returns the
 * focus, before the action.
 */
export function contextMenu(label: string, at: Point, groups: Choice[][], back: () => void): void {
  document.querySelector(".context-menu")?.remove();
  const listening = new AbortController();
  const close = (): void => {
    listening.abort();
    panel.remove();
  };
  const items: HTMLButtonElement[] = [];
  const item = ([text, act, key]: Choice): HTMLButtonElement => {
    const choose = (): void => {
      close();
      back();
      act();
    };
    const made = button(text, choose, { role: "menuitem", tabindex: -1, "aria-keyshortcuts": key });
    if (key) made.append(h("kbd", { "aria-hidden": "true" }, key));
    items.push(made);
    return made;
  };
  const parts = groups.filter((group) => group.length).map((group) => group.map(item));
  const panel = h(
    "div.popover.context-menu",
    // Not "auto": the button that opened the menu is released outside it, which would close it again.
    { popover: "manual" },
    h(
      "div.menu",
      { role: "menu", "aria-label": label },
      parts.map((group, index) => [index > 0 && h("hr", { role: "separator" }), group]),
    ),
  );
  panel.addEventListener("contextmenu", (event) => event.preventDefault());
  panel.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (walk(items, event)) event.preventDefault();
    else if (["Escape", "Tab"].includes(event.key)) {
      event.preventDefault();
      close();
      back();
    }
  });
  document.body.append(panel);
  panel.showPopover();
  panel.style.left = `${Math.max(4, Math.min(at.x, innerWidth - panel.offsetWidth - 4))}px`;
  panel.style.top = `${Math.max(4, Math.min(at.y, innerHeight - panel.offsetHeight - 4))}px`;
  items[0]?.focus();
  closeOutside(panel, close, listening.signal);
}

/** Close the menu when something else is pressed, scrolled or focused. */
function closeOutside(panel: HTMLElement, close: () => void, signal: AbortSignal): void {
  const leave = ({ target }: Event): void => {
    if (!(target instanceof Node) || !panel.contains(target)) close();
  };
  for (const name of ["pointerdown", "wheel", "focusin"]) document.addEventListener(name, leave, { signal });
  for (const name of ["resize", "blur", "popstate"]) window.addEventListener(name, close, { signal });
}

/** Move the focus by an arrow, to an end, or to the next name that starts with a letter. */
function walk(items: HTMLButtonElement[], event: KeyboardEvent): boolean {
  const index = items.indexOf(document.activeElement as HTMLButtonElement);
  const { length } = items;
  const letter = keyName(event);
  const next = { ArrowDown: index + 1, ArrowUp: index + length - 1, Home: 0, End: length - 1 }[event.key];
  const found =
    next !== undefined
      ? items[next % length]
      : letter.length === 1 && letter !== " "
        ? [...items.slice(index + 1), ...items].find((item) => item.textContent?.toLowerCase().startsWith(letter))
        : undefined;
  found?.focus();
  return found !== undefined;
}
