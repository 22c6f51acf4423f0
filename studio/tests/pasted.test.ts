import assert from "node:assert/strict";
import { test } from "node:test";
import { changesCell, pastedCell } from "../src/pages/rows/pasted.ts";
import { column } from "./column.ts";

const count = column("count", { type: "integer", kind: "integer" });

test("an empty cell leaves the value, or becomes NULL or an empty text", () => {
  assert.equal(pastedCell(column("plan"), "", "old", "leave").value, undefined);
  assert.equal(pastedCell(column("plan"), "", "old", "null").value, null);
  assert.equal(pastedCell(column("plan"), "", "old", "text").value, "");
  assert.equal(pastedCell(column("plan", { nullable: false }), "", "old", "null").problem, "plan cannot be NULL");
});

test("only a text keeps its spaces", () => {
  assert.equal(pastedCell(column("plan"), " a ", null, "leave").value, " a ");
  assert.equal(pastedCell(count, " 7 ", null, "leave").value, "7");
});

test("a list is read, and any other text in its place is refused", () => {
  const list = column("plan", { kind: "array", type: "text[]" });
  assert.deepEqual(pastedCell(list, "{a,NULL}", null, "leave").value, ["a", null]);
  assert.match(pastedCell(list, "a,b", null, "leave").problem ?? "", /a list is written as/);
});

test("a value that is there already changes nothing", () => {
  assert.ok(!changesCell(pastedCell(count, "7", "7", "leave")));
  assert.ok(changesCell(pastedCell(count, "8", "7", "leave")));
  assert.ok(!changesCell(pastedCell(count, "", null, "null")));
  assert.ok(changesCell(pastedCell(column("plan"), "a", { cut: "a", length: 5000 }, "leave")));
});
