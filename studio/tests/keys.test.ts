import assert from "node:assert/strict";
import { test } from "node:test";
import { isPageKey, keyName } from "../src/keys.ts";

const none = { ctrlKey: false, metaKey: false, altKey: false, shiftKey: false };
const name = (key: string, modifiers: Partial<typeof none> = {}, code = ""): string =>
  keyName({ key, code, ...none, ...modifiers });

test("a key is named with its modifiers", () => {
  assert.equal(name("s", { ctrlKey: true }), "Ctrl+s");
  assert.equal(name("Enter", { ctrlKey: true, shiftKey: true }), "Ctrl+Shift+Enter");
  assert.equal(name("F4"), "F4");
  assert.equal(name(" "), " ");
});

test("Cmd is named Ctrl", () => {
  assert.equal(name("z", { metaKey: true }), "Ctrl+z");
});

test("a capital letter is the same key, and a shifted character is named by itself", () => {
  assert.equal(name("Z", { ctrlKey: true, shiftKey: true }), "Ctrl+z");
  assert.equal(name("?", { shiftKey: true }), "?");
  assert.equal(name(" ", { shiftKey: true }), "Shift+ ");
});

test("with Alt the physical key is named, whatever character Option types", () => {
  assert.equal(name("†", { altKey: true }, "KeyT"), "Alt+t");
  assert.equal(name("¡", { altKey: true }, "Digit1"), "Alt+1");
  assert.equal(name("≥", { altKey: true }, "Period"), "Alt+.");
  assert.equal(name("PageDown", { altKey: true }, "PageDown"), "Alt+PageDown");
});

test("the grid leaves the page's shortcuts to the page", () => {
  for (const key of ["/", "?", "F4", " ", "Delete", "Insert", "Ctrl+Delete", "Alt+PageDown", "Shift+ArrowDown"])
    assert.ok(isPageKey(key, true), key);
  for (const key of ["a", "ArrowDown", "Tab", "Escape", "Home"]) assert.ok(!isPageKey(key, true), key);
});

test("Enter belongs to the grid only in a cell that can be edited", () => {
  assert.ok(!isPageKey("Enter", true));
  assert.ok(isPageKey("Enter", false));
});
