import assert from "node:assert/strict";
import { test } from "node:test";
import {
  charactersBefore,
  describeDone,
  describeRun,
  type Line,
  offsetOf,
  readLines,
} from "../src/pages/sql/stream.ts";

async function read(...chunks: (string | Uint8Array<ArrayBuffer>)[]): Promise<Line[]> {
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(typeof chunk === "string" ? encoder.encode(chunk) : chunk);
      controller.close();
    },
  });
  const lines: Line[] = [];
  for await (const line of readLines(body)) lines.push(line);
  return lines;
}

test("lines are read however the response is split into chunks", async () => {
  const lines = [{ rows: [["1"]] }, { done: { rows: 1, ms: 2 } }];
  const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  for (let at = 0; at <= text.length; at++) assert.deepEqual(await read(text.slice(0, at), text.slice(at)), lines);
});

test("a character that is split between two chunks is read correctly", async () => {
  const bytes = new TextEncoder().encode('{"rows":[["😀"]]}\n');
  for (let at = 0; at <= bytes.length; at++)
    assert.deepEqual(await read(bytes.slice(0, at), bytes.slice(at)), [{ rows: [["😀"]] }]);
});

test("the last line needs no line end, and empty lines are skipped", async () => {
  assert.deepEqual(await read('\n\n{"rows":[]}'), [{ rows: [] }]);
  assert.deepEqual(await read(), []);
});

test("a position counts an emoji as one character", () => {
  assert.equal(offsetOf("SELECT '😀', x", 0), 0);
  assert.equal(offsetOf("SELECT '😀', x", 12), 13);
  assert.equal(offsetOf("SELECT 'aa', x", 12), 12);
  assert.equal(offsetOf("short", 100), 5);
  for (let at = 0; at <= 12; at++) assert.equal(charactersBefore("SELECT '😀', x", offsetOf("SELECT '😀', x", at)), at);
});

test("the summary names a command other than SELECT", () => {
  assert.equal(describeDone({ rows: 3, ms: 1.25, command: "SELECT 3" }, "rows"), "3 rows in 1.3 ms");
  assert.equal(describeDone({ rows: 0, ms: 12.3, command: "UPDATE 0" }, "rows"), "UPDATE 0 in 12 ms");
  assert.equal(describeDone({ rows: 2, ms: 12.3, command: "DELETE 2" }, "rows"), "DELETE 2 · 2 rows in 12 ms");
  assert.equal(describeDone({ rows: 0, ms: 1, command: "SELECT 0" }, "rows"), "0 rows in 1.0 ms");
  assert.equal(describeRun(3, 12.3), "3 statements in 12 ms");
  assert.equal(describeDone({ rows: 1000, ms: 12.3, more: true }, "rows"), "1,000 rows in 12 ms; more are available");
  assert.equal(describeDone({ rows: 0, ms: 0.26 }, "plan"), "explained in 0.3 ms");
});
