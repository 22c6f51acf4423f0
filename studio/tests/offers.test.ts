import assert from "node:assert/strict";
import { test } from "node:test";
import { chosenOf, type Offer } from "../src/offers.ts";

const one: Offer[] = [{ key: "7", label: "Ana" }];
const two: Offer[] = [...one, { key: "8", label: "Ana Souza" }];

test("a text that names no row is never the value of a number", () => {
  const choice = chosenOf("Aurora", "integer", "users", []);
  assert.deepEqual(choice, { problem: "“Aurora” names no row of users." });
});

test("digits are a key, also of a row that is not offered", () => {
  assert.deepEqual(chosenOf("15", "integer", "users", []), { value: "15" });
  assert.deepEqual(chosenOf("15", "integer", "users", two), { value: "15" });
  assert.deepEqual(chosenOf("-3", "integer", "users", two), { value: "-3" });
});

test("the only offer is taken, and of several none", () => {
  assert.deepEqual(chosenOf("ana", "integer", "users", one), { value: "7" });
  assert.ok("problem" in chosenOf("ana", "integer", "users", two));
  assert.deepEqual(chosenOf("8", "text", "users", two), { value: "8" });
});

test("a key that is a text may be one of a row that is not saved yet", () => {
  assert.deepEqual(chosenOf("NEW", "text", "roles", []), { value: "NEW" });
  assert.deepEqual(chosenOf("", "text", "roles", []), { value: "" });
  assert.deepEqual(chosenOf("", "integer", "users", []), { value: null });
});
