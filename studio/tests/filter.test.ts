import assert from "node:assert/strict";
import { test } from "node:test";
import {
  conditionOf,
  describe,
  fieldsOf,
  type Group,
  groupOf,
  keysAre,
  narrowed,
  readFilter,
  replacePart,
  withoutPart,
  withPart,
  writeFilter,
} from "../src/filters/filter.ts";

const student = { column: "role", op: "is", value: "STUDENT" };
const nameless = { column: "email", op: "null" };

test("a filter survives a round trip through the address", () => {
  const filter: Group = { all: [student, { any: [nameless, student] }] };
  assert.deepEqual(readFilter(writeFilter(filter)), filter);
});

test("an empty filter leaves the address", () => {
  assert.equal(writeFilter({ all: [] }), null);
  assert.equal(writeFilter({ any: [] }), null);
});

test("invalid text gives an empty filter", () => {
  for (const text of [null, "", "null", "not json", "5", '"all"', "{"]) assert.deepEqual(readFilter(text), { all: [] });
});

test("a lone condition becomes a group", () => {
  assert.deepEqual(readFilter(JSON.stringify(student)), { all: [student] });
});

test("narrowing adds a condition that must match", () => {
  assert.deepEqual(narrowed({ all: [student] }, nameless), { all: [student, nameless] });
  assert.deepEqual(narrowed({ any: [student, nameless] }, student), { all: [{ any: [student, nameless] }, student] });
  assert.deepEqual(narrowed({ any: [] }, student), { all: [student] });
});

test("adding, replacing and removing a part does not change the original group", () => {
  const group: Group = { any: [student] };
  assert.deepEqual(withPart(group, nameless), { any: [student, nameless] });
  assert.deepEqual(replacePart(group, 0, nameless), { any: [nameless] });
  assert.deepEqual(withoutPart(group, 0), { any: [] });
  assert.deepEqual(group, { any: [student] });
});

test("the joiner decides whether all parts or any part must match", () => {
  assert.deepEqual(groupOf("and", [student]), { all: [student] });
  assert.deepEqual(groupOf("or", [student]), { any: [student] });
});

test("the fields of the form become the value that the operator expects", () => {
  assert.deepEqual(conditionOf("email", "null", []), nameless);
  assert.deepEqual(conditionOf("role", "is", ["STUDENT"]), student);
  assert.deepEqual(conditionOf("email", "is", [""]), { column: "email", op: "is", value: "" });
  assert.deepEqual(conditionOf("degree", "between", ["1", "3"]), {
    column: "degree",
    op: "between",
    value: ["1", "3"],
  });
  assert.deepEqual(conditionOf("belt", "in", ["BLUE\n\nBLACK\n"]), {
    column: "belt",
    op: "in",
    value: ["BLUE", "BLACK"],
  });
  assert.deepEqual(conditionOf("belt", "in", [""]), { column: "belt", op: "in", value: [] });
});

test("the form of a condition starts with its values", () => {
  assert.deepEqual(fieldsOf(nameless), []);
  assert.deepEqual(fieldsOf(student), ["STUDENT"]);
  assert.deepEqual(fieldsOf({ column: "degree", op: "between", value: ["1", "3"] }), ["1", "3"]);
});

test("rows are selected by their keys", () => {
  const id = { name: "id", kind: "integer" };
  assert.deepEqual(keysAre([id], ["7"]), { column: "id", op: "is", value: "7" });
  assert.deepEqual(keysAre([id], ["7", "8"]), { column: "id", op: "in", value: ["7", "8"] });
  const belt = { name: "belt", kind: "text" };
  assert.deepEqual(keysAre([id, belt], ['["7", "BLUE"]']), {
    any: [
      {
        all: [
          { column: "id", op: "is", value: "7" },
          { column: "belt", op: "is", value: "BLUE" },
        ],
      },
    ],
  });
});

test("a condition is described in words", () => {
  const sentence = (op: string, value?: string | string[]): string =>
    describe(value === undefined ? { column: "any", op } : { column: "any", op, value });
  assert.equal(sentence("null"), "is NULL");
  assert.equal(sentence("not null"), "is not NULL");
  assert.equal(sentence("empty"), "is empty");
  assert.equal(sentence("is", "STUDENT"), "is STUDENT");
  assert.equal(sentence("is not", ""), "is not (empty text)");
  assert.equal(sentence("between", ["1", "3"]), "is between 1 and 3");
  assert.equal(sentence("in", ["BLUE", "BLACK"]), "in BLUE, BLACK");
});
