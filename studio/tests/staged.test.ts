import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import {
  change,
  changeOf,
  changes,
  discard,
  discardAll,
  forgetSaved,
  inserted,
  isRejected,
  keepMine,
  onChanges,
  reject,
  stage,
  stageDelete,
  stageDeletions,
  stageInsert,
  takeSavedRows,
  takeTheirs,
  toWire,
  undo,
} from "../src/changes/staged.ts";

beforeEach(() => {
  discardAll();
  forgetSaved([], []);
});

const staged = (table: string, key: string) => {
  const change = changeOf(table, key);
  assert.ok(change);
  return change;
};

test("a staged value is sent with the original value", () => {
  stage("users", "1", "first_name", "before", "after");
  assert.deepEqual(toWire(staged("users", "1")), {
    op: "update",
    table: "users",
    key: "1",
    values: { first_name: "after" },
    was: { first_name: "before" },
  });
});

test("a second edit of a value keeps the original value", () => {
  stage("users", "1", "first_name", "before", "once");
  stage("users", "1", "first_name", "once", "twice");
  assert.deepEqual(staged("users", "1").was, { first_name: "before" });
});

test("staging the original value removes the change", () => {
  stage("users", "1", "first_name", "before", "after");
  stage("users", "1", "last_name", null, "");
  stage("users", "1", "first_name", "before", "before");
  assert.deepEqual(staged("users", "1").values, { last_name: "" });
  stage("users", "1", "last_name", null, null);
  assert.equal(changes.size, 0);
});

test("NULL and the empty text are two values", () => {
  stage("users", "1", "last_name", null, "");
  assert.deepEqual(staged("users", "1").values, { last_name: "" });
});

test("arrays are compared by their elements", () => {
  stage("notifications", "1", "recipients", ["1", null], ["1", null]);
  assert.equal(changes.size, 0);
});

test("the same key in two tables is two rows", () => {
  stage("users", "1", "first_name", "a", "b");
  stage("gyms", "1", "name", "a", "b");
  assert.equal(changes.size, 2);
});

test("a new row is sent without a key, and the latest is shown first", () => {
  const first = stageInsert("users");
  const second = stageInsert("users");
  stageInsert("gyms");
  stage("users", second, "first_name", null, "new");
  assert.deepEqual(
    inserted("users").map(({ key }) => key),
    [second, first],
  );
  assert.deepEqual(toWire(staged("users", second)), { op: "insert", table: "users", values: { first_name: "new" } });
});

test("an explicit NULL in a new row is sent, because it overrides the default", () => {
  const key = stageInsert("users");
  stage("users", key, "created_at", null, null);
  assert.deepEqual(staged("users", key).values, { created_at: null });
});

test("a deletion is sent with the original values, except those that were cut", () => {
  stageDelete("notifications", "1", { id: "1", title: "a", content: { cut: "long", length: 5000 } });
  assert.deepEqual(toWire(staged("notifications", "1")), {
    op: "delete",
    table: "notifications",
    key: "1",
    was: { id: "1", title: "a" },
  });
});

test("deleting a row twice leaves it, and deleting a new row removes it", () => {
  stageDelete("users", "1", { id: "1" });
  stageDelete("users", "1", { id: "1" });
  stageDelete("users", stageInsert("users"), {});
  assert.equal(changes.size, 0);
});

test("a deletion takes the place of an edit", () => {
  stage("users", "1", "first_name", "before", "after");
  stageDelete("users", "1", { first_name: "before" });
  assert.equal(staged("users", "1").op, "delete");
  assert.deepEqual(staged("users", "1").values, {});
});

test("undo reverts the steps, the last one first", () => {
  stage("users", "1", "first_name", "a", "b");
  stage("users", "1", "first_name", "a", "c");
  discardAll();
  assert.ok(undo());
  assert.deepEqual(staged("users", "1").values, { first_name: "c" });
  assert.ok(undo());
  assert.deepEqual(staged("users", "1").values, { first_name: "b" });
  assert.ok(undo());
  assert.equal(changes.size, 0);
  assert.ok(!undo());
});

test("a save cannot be undone", () => {
  stage("users", "1", "first_name", "a", "b");
  forgetSaved([...changes.values()], ["1"]);
  assert.ok(!undo());
  assert.equal(changes.size, 0);
});

test("what is staged while a save is under way stays, with the saved values before it", () => {
  stage("users", "1", "first_name", "a", "b");
  stage("users", "1", "last_name", "c", "d");
  stage("users", "2", "plan", null, "monthly");
  const fresh = stageInsert("users");
  stage("users", fresh, "first_name", null, "new");
  stageDelete("users", "3", { id: "3" });
  stage("users", "5", "plan", "x", "y");
  const sent = structuredClone([...changes.values()]);
  stage("users", "1", "first_name", "b", "later");
  stage("users", fresh, "plan", null, "yearly");
  stageDelete("users", "5", { id: "5", plan: "x" });
  stage("users", "4", "plan", null, "weekly");
  forgetSaved(sent, ["1", "2", "7", "3", "5"]);
  assert.deepEqual(
    [...changes.values()].map(({ op, key, values, was }) => [op, key, values, was]),
    [
      ["update", "4", { plan: "weekly" }, { plan: null }],
      ["update", "1", { first_name: "later" }, { first_name: "b" }],
      ["update", "7", { plan: "yearly" }, { plan: null }],
      ["delete", "5", {}, { id: "5", plan: "y" }],
    ],
  );
  assert.deepEqual(takeSavedRows("users"), ["7"]);
});

test("the new rows of a save are named once, by the table", () => {
  stageInsert("users");
  stage("users", "1", "first_name", "a", "b");
  forgetSaved([...changes.values()], ["7", "1"]);
  assert.deepEqual(takeSavedRows("gyms"), []);
  assert.deepEqual(takeSavedRows("users"), ["7"]);
  assert.deepEqual(takeSavedRows("users"), []);
});

test("a rejected value is marked until the next edit", () => {
  stage("users", "1", "gym_id", null, "999");
  const change = staged("users", "1");
  reject([change], [{ index: 0, column: "gym_id", what: "gyms has no row 999" }]);
  assert.ok(isRejected(change));
  assert.deepEqual(change.errors, { gym_id: "gyms has no row 999" });
  stage("users", "1", "gym_id", null, "1");
  assert.ok(!isRejected(staged("users", "1")));
});

test("an error without a column belongs to the whole change", () => {
  stageDelete("gyms", "1", { id: "1" });
  const change = staged("gyms", "1");
  reject(
    [change],
    [
      { index: 0, column: null, what: "users refer to it" },
      { index: 7, column: null, what: "of a change that was not sent" },
    ],
  );
  assert.equal(change.error, "users refer to it");
});

test("keeping theirs drops a staged value, and keeping mine expects the value in the database", () => {
  stage("users", "1", "first_name", "before", "mine");
  stage("users", "1", "last_name", "before", "mine too");
  takeTheirs(staged("users", "1"), "first_name");
  assert.deepEqual(staged("users", "1").values, { last_name: "mine too" });
  keepMine(staged("users", "1"), "last_name", "theirs");
  assert.deepEqual(staged("users", "1").was, { last_name: "theirs" });
  takeTheirs(staged("users", "1"), "last_name");
  assert.equal(changes.size, 0);
});

test("keeping theirs drops a staged deletion", () => {
  stageDelete("users", "1", { first_name: "before" });
  takeTheirs(staged("users", "1"), "first_name");
  assert.equal(changes.size, 0);
});

test("listeners are called after every step until they stop", () => {
  let heard = 0;
  const stop = onChanges(() => heard++);
  stage("users", "1", "first_name", "a", "b");
  discard(staged("users", "1"));
  undo();
  assert.equal(heard, 3);
  stop();
  discardAll();
  assert.equal(heard, 3);
});

test("changes of many rows are one step", () => {
  stage("users", "1", "plan", null, "yearly");
  let calls = 0;
  const stop = onChanges(() => calls++);
  change(() => {
    for (const key of ["1", "2", "3"]) stage("users", key, "plan", null, "monthly");
  });
  stop();
  assert.equal(calls, 1);
  assert.equal(changes.size, 3);
  assert.ok(undo());
  assert.deepEqual([...changes.keys()], ["users/1"]);
  assert.equal(staged("users", "1").values.plan, "yearly");
});

test("a step that fails can be undone, and the next one is a step of its own", () => {
  assert.throws(() =>
    change(() => {
      stage("users", "1", "plan", null, "monthly");
      throw new Error("broken");
    }),
  );
  stage("users", "2", "plan", null, "monthly");
  assert.ok(undo());
  assert.deepEqual([...changes.keys()], ["users/1"]);
  assert.ok(undo());
  assert.equal(changes.size, 0);
});

test("deleting several rows deletes those that are not staged for deletion yet", () => {
  const rows = ["1", "2"].map((key) => ({ key, cells: { plan: null } }));
  stageDelete("users", "1", {});
  stageDeletions("users", rows);
  assert.deepEqual(
    [...changes.values()].map(({ op }) => op),
    ["delete", "delete"],
  );
  stageDeletions("users", rows);
  assert.equal(changes.size, 0);
  assert.ok(undo());
  assert.equal(changes.size, 2);
});
