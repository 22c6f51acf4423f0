import assert from "node:assert/strict";
import { test } from "node:test";
import type { Column } from "../src/api.ts";
import { changesCell, pastedCell } from "../src/pages/rows/pasted.ts";

const column = (changed: Partial<Column>): Column => ({
  name: "plan",
  type: "text",
  kind: "text",
  nullable: true,
  default: null,
  unique: false,
  primary: false,
  references: null,
  values: null,
  sortable: true,
  editable: true,
  insertable: true,
  ...changed,
});
const count = column({ name: "count", type: "integer", kind: "integer" });

test("an empty cell leaves the value, or becomes NULL or an empty text", () => {
  assert.equal(pastedCell(column({}), "", "old", "leave").value, undefined);
  assert.equal(pastedCell(column({}), "", "old", "null").value, null);
  assert.equal(pastedCell(column({}), "", "old", "text").value, "");
  assert.equal(pastedCell(column({ nullable: false }), "", "old", "null").problem, "plan cannot be NULL");
});

test("only a text keeps its spaces", () => {
  assert.equal(pastedCell(column({}), " a ", null, "leave").value, " a ");
  assert.equal(pastedCell(count, " 7 ", null, "leave").value, "7");
});

test("a list is read, and any other text in its place is refused", () => {
  const list = column({ kind: "array", type: "text[]" });
  assert.deepEqual(pastedCell(list, "{a,NULL}", null, "leave").value, ["a", null]);
  assert.match(pastedCell(list, "a,b", null, "leave").problem ?? "", /a list is written as/);
});

test("a value that is there already changes nothing", () => {
  assert.ok(!changesCell(pastedCell(count, "7", "7", "leave")));
  assert.ok(changesCell(pastedCell(count, "8", "7", "leave")));
  assert.ok(!changesCell(pastedCell(count, "", null, "null")));
  assert.ok(changesCell(pastedCell(column({}), "a", { cut: "a", length: 5000 }, "leave")));
});
