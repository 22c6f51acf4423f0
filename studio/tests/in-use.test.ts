import assert from "node:assert/strict";
import { test } from "node:test";
import { noteOf, offeredOf } from "../src/in-use.ts";

const belts = { values: ["Ação", "BLACK", "yellow"], dates: false };

test("values of other rows are offered without case and accents, and all of them if none matches", () => {
  assert.deepEqual(offeredOf(belts, "YEL"), ["yellow"]);
  assert.deepEqual(offeredOf(belts, "acao"), ["Ação"]);
  assert.deepEqual(offeredOf(belts, ""), belts.values);
  assert.deepEqual(offeredOf(belts, "YELOW"), belts.values);
});

test("a value that no other row has is named, with the one that differs in case only", () => {
  assert.equal(noteOf(belts, "YELOW"), "No other row has “YELOW”.");
  assert.equal(noteOf(belts, "YELLOW "), "Other rows have “yellow”.");
  assert.equal(noteOf(belts, "yellow"), "");
  assert.equal(noteOf(belts, "Yel"), "");
  assert.equal(noteOf(belts, " "), "");
  assert.equal(noteOf({ values: [], dates: false }, "x"), "");
});
