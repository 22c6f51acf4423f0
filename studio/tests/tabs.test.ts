import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Tabs } from "../src/pages/sql/tabs.ts";

const storage = new Map<string, string>();
Object.defineProperty(globalThis, "localStorage", {
  value: {
    getItem: (name: string) => storage.get(name) ?? null,
    setItem: (name: string, value: string) => storage.set(name, value),
  },
});
beforeEach(() => storage.clear());

const names = ({ list }: Tabs): string[] => list.map(({ name }) => name);
const three = (): Tabs => {
  const tabs = new Tabs();
  tabs.add("two");
  tabs.add("three");
  return tabs;
};

test("the first visit has one tab with an example query", () => {
  const tabs = new Tabs();
  assert.deepEqual(names(tabs), ["Query 1"]);
  assert.match(tabs.open.text, /^SELECT/);
});

test("a new tab opens at the end with the next number", () => {
  const tabs = three();
  tabs.rename(tabs.open, "Query 7");
  tabs.add("");
  assert.deepEqual(names(tabs), ["Query 1", "Query 2", "Query 7", "Query 8"]);
  assert.equal(tabs.index, 3);
});

test("the list and the open tab are stored between visits", () => {
  three().choose(1);
  const again = new Tabs();
  assert.deepEqual(names(again), ["Query 1", "Query 2", "Query 3"]);
  assert.equal(again.open.text, "two");
});

test("closing another tab leaves the open one open", () => {
  const tabs = three();
  tabs.choose(1);
  tabs.close(0);
  assert.equal(tabs.open.text, "two");
  tabs.close(1);
  assert.equal(tabs.open.text, "two");
});

test("closing the open tab opens its neighbour", () => {
  const tabs = three();
  tabs.choose(1);
  tabs.close(1);
  assert.equal(tabs.open.text, "three");
  tabs.close(1);
  assert.equal(tabs.open.name, "Query 1");
});

test("the last tab is replaced by an empty one", () => {
  const tabs = new Tabs();
  tabs.close(0);
  assert.deepEqual(tabs.list, [{ name: "Query 1", text: "" }]);
  assert.equal(tabs.index, 0);
});

test("an empty name renames nothing", () => {
  const tabs = new Tabs();
  tabs.rename(tabs.open, "  ");
  assert.equal(tabs.open.name, "Query 1");
  tabs.rename(tabs.open, " mine ");
  assert.equal(tabs.open.name, "mine");
});

test("an index outside the list opens the nearest tab", () => {
  const tabs = three();
  tabs.choose(9);
  assert.equal(tabs.index, 2);
  tabs.choose(-1);
  assert.equal(tabs.index, 0);
});

test("an invalid storage counts as empty", () => {
  storage.set("sql:tabs", "{not json");
  assert.deepEqual(names(new Tabs()), ["Query 1"]);
});
