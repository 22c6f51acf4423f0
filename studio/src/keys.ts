// The names of keys, as pages and the list of keys use them.

type Pressed = Pick<KeyboardEvent, "key" | "code" | "ctrlKey" | "metaKey" | "altKey" | "shiftKey">;

/** `Ctrl+Alt+Shift+key`; with Alt by the place of the key, because Option types other characters on a Mac. */
export function keyName(event: Pressed): string {
  const key = event.altKey ? event.code.replace(/^(Key|Digit)/, "").replace("Period", ".") : event.key;
  return [
    event.ctrlKey || event.metaKey ? "Ctrl+" : "",
    event.altKey ? "Alt+" : "",
    event.shiftKey && key.length > 1 ? "Shift+" : "",
    key.length === 1 ? key.toLowerCase() : key,
  ].join("");
}

const PAGE_KEYS = new Set(["/", "?", "F4", " ", "Delete", "Backspace", "Insert"]);

/** Whether a grid of rows leaves a key to the page; Enter on a cell without an editor may have to read it whole first. */
export const isPageKey = (name: string, canEdit: boolean): boolean =>
  PAGE_KEYS.has(name) || /^(Ctrl|Alt)\+/.test(name) || (name === "Enter" && !canEdit);
