import assert from "node:assert/strict";
import { test } from "node:test";
import { age, type Session, type Wait, waitsOf } from "../src/pages/activity/waits.ts";

const session = (pid: number, ...blockers: number[]): Session => ({
  pid,
  role: "ana",
  application: null,
  database: "tatame",
  kind: "client backend",
  state: "active",
  started: null,
  seconds: 0,
  transaction_seconds: 0,
  waiting_for: null,
  statement: null,
  statement_length: null,
  visible: true,
  own: false,
  blockers,
  lock: null,
});
type Tree = [number, ...Tree[]];
const treeOf = ({ pid, waiting }: Wait): Tree => [pid, ...waiting.map(treeOf)];
const trees = (...sessions: Session[]): Tree[] => waitsOf(sessions).map(treeOf);

test("the roots hold locks, and those that wait are below them", () => {
  assert.deepEqual(trees(session(1), session(2, 1), session(3, 2), session(4)), [[1, [2, [3]]]]);
});

test("a session that waits for two others is below both", () => {
  assert.deepEqual(trees(session(1), session(2), session(3, 1, 2)), [
    [1, [3]],
    [2, [3]],
  ]);
});

test("a circle ends, before PostgreSQL finds the deadlock", () => {
  assert.deepEqual(trees(session(1, 2), session(2, 1)), [[1, [2]]]);
  assert.deepEqual(trees(session(1, 1)), [[1]]);
});

test("a blocker that is no session is a root", () => {
  assert.deepEqual(trees(session(2, 0)), [[0, [2]]]);
  assert.equal(waitsOf([session(2, 0)])[0]?.session, undefined);
});

test("no waits, no trees", () => {
  assert.deepEqual(trees(session(1), session(2)), []);
});

test("ages have two units at most", () => {
  assert.deepEqual([-1, 0.44, 12.9, 184, 7500].map(age), ["0.0 s", "0.4 s", "12 s", "3 min 4 s", "2 h 5 min"]);
});
