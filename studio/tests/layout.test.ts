import assert from "node:assert/strict";
import { test } from "node:test";
import type { Table } from "../src/api.ts";
import { curve, layOut } from "../src/pages/schema/layout.ts";

const column = (
  name: string,
  references: { table: string; column: string; is_key: boolean } | null = null,
): Table["columns"][number] => ({
  name,
  type: "integer",
  kind: "integer",
  nullable: true,
  default: null,
  unique: false,
  primary: name === "id",
  references,
  values: null,
  sortable: true,
  editable: true,
  insertable: true,
});
const refers = (name: string): { table: string; column: string; is_key: boolean } => ({
  table: name,
  column: "id",
  is_key: true,
});
const table = (name: string, ...columns: Table["columns"]): Table => ({
  name,
  schema: "public",
  title: name,
  kind: "table",
  comment: null,
  columns: [column("id"), ...columns],
  key: ["id"],
  hidden: [],
  obstacle: null,
  may_insert: true,
  may_update: true,
  may_delete: true,
  referenced_by: [],
});
const tables = [
  table("gyms", column("manager_id", refers("users"))),
  table("users", column("gym_id", refers("gyms"))),
  table("alone"),
  table("tree", column("parent_id", refers("tree"))),
];

test("every table has a position, and every reference has a line", () => {
  const { boxes, lines } = layOut(tables);
  assert.deepEqual([...boxes.keys()], ["gyms", "users", "alone", "tree"]);
  assert.deepEqual(
    lines.map(({ title }) => title),
    ["gyms.manager_id → users.id", "users.gym_id → gyms.id", "tree.parent_id → tree.id"],
  );
});

test("no table overlaps another or leaves the drawing", () => {
  const { boxes, width, height } = layOut(tables);
  const all = [...boxes.values()];
  for (const box of all)
    assert.ok(box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height);
  for (const [at, one] of all.entries())
    for (const other of all.slice(at + 1))
      assert.ok(
        one.x + one.width <= other.x ||
          other.x + other.width <= one.x ||
          one.y + one.height <= other.y ||
          other.y + other.height <= one.y,
      );
});

test("a line connects the edges of two tables, at the height of its columns", () => {
  const { boxes, lines } = layOut(tables);
  const [line] = lines;
  const [gyms, users] = [boxes.get("gyms"), boxes.get("users")];
  assert.ok(line && gyms && users);
  const [start, end] = [line.points[0], line.points.at(-1)];
  assert.ok(start && end);
  assert.equal(start.x, line.left ? gyms.x : gyms.x + gyms.width);
  assert.equal(Math.abs(end.x - (line.left ? users.x + users.width : users.x)), 8);
  assert.equal(start.y - gyms.y, 28 + 19 * 1.5 + 2);
  assert.equal(end.y - users.y, 28 + 19 * 0.5 + 2);
});

test("a curve passes through every point", () => {
  assert.equal(
    curve([
      { x: 0, y: 0 },
      { x: 10, y: 20 },
      { x: 30, y: 20 },
    ]),
    "M0 0C5 0 5 20 10 20C20 20 20 20 30 20",
  );
  assert.equal(curve([]), "");
});
