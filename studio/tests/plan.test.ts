import assert from "node:assert/strict";
import { test } from "node:test";
import { detailsOf, nameOf, type PlanNode, stepsOf } from "../src/pages/sql/plan.ts";

const join: PlanNode = {
  "Node Type": "Nested Loop",
  "Total Cost": 100,
  "Plan Rows": 10,
  "Actual Total Time": 50,
  "Actual Rows": 1000,
  "Actual Loops": 1,
  Plans: [
    {
      "Node Type": "Seq Scan",
      "Relation Name": "users",
      Alias: "u",
      "Total Cost": 30,
      "Plan Rows": 1000,
      "Actual Total Time": 10,
      "Actual Rows": 1000,
      "Actual Loops": 1,
      "Shared Hit Blocks": 7,
      "Shared Read Blocks": 2,
    },
    {
      "Node Type": "Index Scan",
      "Relation Name": "gyms",
      Alias: "gyms",
      "Index Name": "gyms_pkey",
      "Total Cost": 50,
      "Plan Rows": 1,
      "Actual Total Time": 0.03,
      "Actual Rows": 1,
      "Actual Loops": 1000,
    },
  ],
};

test("every step is followed by its child steps", () => {
  const steps = stepsOf(join, false);
  assert.deepEqual(
    steps.map(({ node, depth }) => [node["Node Type"], depth]),
    [
      ["Nested Loop", 0],
      ["Seq Scan", 1],
      ["Index Scan", 1],
    ],
  );
});

test("the cost of a step excludes its child steps", () => {
  assert.deepEqual(
    stepsOf(join, false).map(({ own }) => own),
    [20, 30, 50],
  );
});

test("the time of a step covers all its loops", () => {
  const [top, scan, index] = stepsOf(join, true);
  assert.equal(index?.own, 30);
  assert.equal(scan?.own, 10);
  assert.equal(top?.own, 10);
  assert.deepEqual([index?.actual, index?.expected, index?.loops], [1000, 1000, 1000]);
});

test("the shares of all steps add up to the whole plan", () => {
  for (const measured of [true, false]) {
    const shares = stepsOf(join, measured).map(({ share }) => share);
    assert.ok(Math.abs(shares.reduce((sum, share) => sum + share) - 1) < 1e-9, String(shares));
  }
});

test("the planner's error is a factor in either direction, and 1 if nothing was measured", () => {
  const [top, scan] = stepsOf(join, true);
  assert.equal(top?.error, 100);
  assert.equal(scan?.error, 1);
  assert.equal(stepsOf({ "Node Type": "Result", "Plan Rows": 500, "Actual Rows": 0 }, true)[0]?.error, 500);
  assert.ok(stepsOf(join, false).every(({ error }) => error === 1));
});

test("a child step that costs more than its parent does not make a share negative", () => {
  const below = { "Node Type": "Seq Scan", "Total Cost": 9 };
  const limit = stepsOf({ "Node Type": "Limit", "Total Cost": 1, Plans: [below] }, false);
  assert.equal(limit[0]?.own, 0);
  assert.equal(limit[1]?.share, 1);
});

test("a plan that took no time has shares of zero", () => {
  assert.deepEqual(
    stepsOf({ "Node Type": "Result", "Actual Total Time": 0, "Actual Loops": 1 }, true).map(({ share }) => share),
    [0],
  );
});

test("pages are counted if they were measured", () => {
  assert.deepEqual(
    stepsOf(join, true).map(({ pages }) => pages),
    [undefined, 9, undefined],
  );
});

test("a step is named by its kind and its target", () => {
  const [, scan, index] = stepsOf(join, false);
  assert.ok(scan && index);
  assert.deepEqual(nameOf(scan.node), { kind: "Seq Scan", target: " on users as u", index: undefined });
  assert.deepEqual(nameOf(index.node), { kind: "Index Scan", target: " on gyms", index: "gyms_pkey" });
  assert.equal(nameOf({ "Node Type": "Hash Join", "Join Type": "Left" }).kind, "Hash Join (left)");
  assert.equal(nameOf({ "Node Type": "Hash Join", "Join Type": "Inner" }).kind, "Hash Join");
});

test("details without a value are left out", () => {
  const node = {
    "Node Type": "Sort",
    "Sort Key": ["a", "b DESC"],
    "Rows Removed by Filter": 0,
    "Parallel Aware": false,
  };
  assert.deepEqual(detailsOf(node), ["Sort Key: a, b DESC"]);
});
