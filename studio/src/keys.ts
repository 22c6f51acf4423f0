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
