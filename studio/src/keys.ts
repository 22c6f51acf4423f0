// The names of keys.

type Pressed = Pick<KeyboardEvent, "key" | "code" | "ctrlKey" | "metaKey" | "altKey" | "shiftKey">;

/** Name a key as `Ctrl+Alt+Shift+key`. With Alt the physical key counts, because Option types other characters on a Mac. */
export function keyName(event: Pressed): string {
  const key = event.altKey ? event.code.replace(/^(Key|Digit)/, "").replace("Period", ".") : event.key;
  return [
    event.ctrlKey || event.metaKey ? "Ctrl+" : "",
    event.altKey ? "Alt+" : "",
    event.shiftKey && (key.length > 1 || key === " ") ? "Shift+" : "",
    key.length === 1 ? key.toLowerCase() : key,
  ].join("");
}

const PAGE_KEYS = new Set([
  ...["/", "?", "F4", " ", "Delete", "Backspace", "Insert"],
  ...["Shift+ArrowDown", "Shift+ArrowUp", "Shift+ "],
]);

/** True if a grid of rows must leave a key to the page. Enter on a cut cell first reads its full value. */
export const isPageKey = (name: string, canEdit: boolean): boolean =>
  PAGE_KEYS.has(name) || /^(Ctrl|Alt)\+/.test(name) || (name === "Enter" && !canEdit);
