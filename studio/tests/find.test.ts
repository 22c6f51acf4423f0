import assert from "node:assert/strict";
import { test } from "node:test";
import { matching } from "../src/find.ts";

const choices = ["gyms", "users", "Schema", "users.id", "users.gym_id", "versions.user"].map((name) => ({
  name,
  hint: "",
  to: `/${name}`,
}));
const found = (typed: string): string[] => matching(choices, typed).map(({ name }) => name);

test("without a word the tables and pages are shown", () => {
  assert.deepEqual(found(""), ["gyms", "users", "Schema"]);
  assert.deepEqual(found("  "), ["gyms", "users", "Schema"]);
});

test("names that begin with the word come first, and columns last", () => {
  assert.deepEqual(found("user"), ["users", "users.id", "users.gym_id", "versions.user"]);
  assert.deepEqual(found("s"), ["Schema", "gyms", "users", "users.id", "users.gym_id", "versions.user"]);
});

test("case does not matter, and a word that is nowhere finds nothing", () => {
  assert.deepEqual(found(" SCHEMA "), ["Schema"]);
  assert.deepEqual(found("belt"), []);
});

test("no more are shown than fit", () => {
  const many = Array.from({ length: 40 }, (_, at) => ({ name: `table${at}`, hint: "", to: "" }));
  assert.equal(matching(many, "table").length, 15);
});
