import assert from "node:assert/strict";
import { test } from "node:test";
import { assignments, folded, leftOut, matched, type Sample } from "../src/pages/rows/import/plan.ts";
import { column } from "./column.ts";

const columns = [column("id", { nullable: false, default: "the next number" }), column("first_name"), column("ação")];
const sample = (form: "csv" | "json", names: string[]): Sample => ({
  harmless: false,
  form,
  names,
  encoding: "utf-8",
  separator: null,
  rows: [],
  keys: [],
});

test("names match without case, accents, spaces and punctuation", () => {
  assert.equal(folded("INÍCIO data_2"), folded("inicio-Data 2"));
  assert.deepEqual(matched(["First Name", "ACAO", "other", "first_name"], columns), ["first_name", "ação", null, null]);
});

test("names in other scripts do not match each other", () => {
  assert.deepEqual(matched(["名", "氏"], [column("氏")]), [null, "氏"]);
});

test("values are taken by place from CSV, and by key from JSON", () => {
  const mapping = [null, "first_name"];
  assert.deepEqual(assignments(sample("csv", ["x", "x"]), mapping), [{ column: "first_name", source: 1 }]);
  assert.deepEqual(assignments(sample("json", ["x", "y"]), mapping), [{ column: "first_name", source: "y" }]);
});

test("what goes nowhere and what needs a value is named", () => {
  const needed = [...columns, column("clerk_user_id", { nullable: false }), column("name", { nullable: false })];
  assert.deepEqual(leftOut(["a", "b"], ["first_name", null], [{ column: "name", value: "x" }], needed), {
    names: ["b"],
    required: ["clerk_user_id"],
  });
});
