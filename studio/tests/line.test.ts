import assert from "node:assert/strict";
import { test } from "node:test";
import { linePath, type Reading, secondsOf, walOf } from "../src/pages/move/line.ts";

const frame = { from: 0, until: 10, interval: 1, top: 4, width: 100, height: 40 };
const reading = (at: number, highest: number, last: number, follower = "a"): Reading => ({
  at,
  follower,
  highest,
  last,
});

test("a line stays at the last value until the next one, and until the end", () => {
  assert.equal(linePath([reading(0, 4, 2), reading(5, 1, 0)], frame), "M0 0L10 20H50H50V30L60 40H100");
});

test("a line breaks between two followers", () => {
  assert.equal(linePath([reading(0, 0, 0), reading(8, 0, 0, "b")], frame), "M0 40L10 40H10M80 40L90 40H100");
});

test("a line of nothing is empty, and one without a lag lies on the ground", () => {
  assert.equal(linePath([], frame), "");
  assert.equal(linePath([reading(0, 0, 0)], { ...frame, top: 0 }), "M0 40L10 40H100");
});

test("intervals without a slot hold no WAL", () => {
  const point = { at: 1, follower: "a", seconds: 2, last_seconds: 1, wal_bytes: null, last_wal_bytes: null };
  assert.deepEqual(walOf([point, { ...point, wal_bytes: 5, last_wal_bytes: 3 }]), [reading(1, 5, 3)]);
  assert.deepEqual(secondsOf([point]), [reading(1, 2, 1)]);
});
