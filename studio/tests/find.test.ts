import assert from "node:assert/strict";
import { test } from "node:test";
import { matching } from "../src/find.ts";

const choices = ["gyms", "users", "Schema", "users.id", "users.gym_id", "versions.user"].map((name) => ({
  name,
  hint: "",
  to: `/${name}`,
}));
const found = (typed: string): string[] => matching(choices, typed).map(({ name }) => name);

test("without a search text the tables and pages are shown", () => {
  assert.deepEqual(found(""), ["gyms", "users", "Schema"]);
  assert.deepEqual(found("  "), ["gyms", "users", "Schema"]);
});

test("names that start with the search text come first, and columns last", () => {
  assert.deepEqual(found("user"), ["users", "users.id", "users.gym_id", "versions.user"]);
  assert.deepEqual(found("s"), ["Schema", "gyms", "users", "users.id", "users.gym_id", "versions.user"]);
});

test("the search ignores case, and an unknown text finds nothing", () => {
  assert.deepEqual(found(" SCHEMA "), ["Schema"]);
  assert.deepEqual(found("belt"), []);
});

test("at most 15 choices are shown", () => {
  const many = Array.from({ length: 40 }, (_, at) => ({ name: `table${at}`, hint: "", to: "" }));
  assert.equal(matching(many, "table").length, 15);
});
