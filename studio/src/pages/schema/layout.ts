// The layout of the diagram: positions of the tables, and the lines between them.

import { Graph, layout } from "@dagrejs/dagre";
import type { Table } from "../../api.ts";

export type Point = { x: number; y: number };
export type Box = Point & { width: number; height: number };
/** A line from a foreign key to the column that it references. `left` is true if it runs to the left. */
export type Line = { from: string; to: string; title: string; points: Point[]; left: boolean };
export type Layout = { width: number; height: number; boxes: Map<string, Box>; lines: Line[] };

export const LINE_HEIGHT = 19;
export const HEAD_HEIGHT = 28;
/** The length of the tip of an arrow, in pixels. */
export const TIP = 8;
const TABLE_WIDTH = 226;

export function layOut(tables: Table[]): Layout {
  const graph = graphOf(tables);
  layout(graph);
  const { width, height } = graph.graph() as { width: number; height: number };
  const boxes = new Map(tables.map(({ name }) => [name, boxOf(graph.node(name) as Box)]));
  return { width, height, boxes, lines: tables.flatMap((table) => linesOf(table, tables, graph, boxes)) };
}

function graphOf(tables: Table[]): Graph {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 26, ranksep: 84, marginx: 16, marginy: 16 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const { name, columns } of tables)
    graph.setNode(name, { width: TABLE_WIDTH, height: HEAD_HEIGHT + LINE_HEIGHT * columns.length + 6 });
  for (const { name, columns } of tables)
    for (const column of columns) if (column.references) graph.setEdge(name, column.references.table, {}, column.name);
  return graph;
}

/** Convert a box from its centre, as dagre gives it, to its top left corner. */
const boxOf = ({ x, y, width, height }: Box): Box => ({ x: x - width / 2, y: y - height / 2, width, height });

function linesOf(table: Table, tables: Table[], graph: Graph, boxes: Map<string, Box>): Line[] {
  return table.columns.flatMap((column, index) => {
    const { references } = column;
    const from = boxes.get(table.name);
    const to = references && boxes.get(references.table);
    if (!references || !from || !to) return [];
    const target = tables.find(({ name }) => name === references.table);
    const row = Math.max(0, target?.columns.findIndex(({ name }) => name === references.column) ?? 0);
    const between = (graph.edge(table.name, references.table, column.name) as { points: Point[] }).points.slice(1, -1);
    return {
      from: table.name,
      to: references.table,
      title: `${table.name}.${column.name} → ${references.table}.${references.column}`,
      ...way(from, index, to, row, between),
    };
  });
}

const middleOf = (box: Box, row: number): number => box.y + HEAD_HEIGHT + LINE_HEIGHT * (row + 0.5) + 2;

/** Connect the facing edges of two boxes, along the points that dagre found between them. */
function way(from: Box, fromRow: number, to: Box, toRow: number, between: Point[]): Pick<Line, "points" | "left"> {
  const left = to.x + to.width / 2 < from.x + from.width / 2;
  const start = { x: left ? from.x : from.x + from.width, y: middleOf(from, fromRow) };
  const end = { x: left ? to.x + to.width : to.x, y: middleOf(to, toRow) };
  const span = Math.abs(start.x - end.x);
  const stops = between.filter(({ x }) => Math.abs(x - start.x) + Math.abs(x - end.x) <= span);
  const beforeTip = { x: end.x + (left ? TIP : -TIP), y: end.y };
  return { left, points: [start, ...(stops.length > 1 ? stops : []), beforeTip] };
}

/** Return an SVG path through the points, horizontal at each of them. */
export function curve(points: Point[]): string {
  const [start, ...rest] = points;
  if (!start) return "";
  let before = start;
  const curves = rest.map((point) => {
    const middle = (before.x + point.x) / 2;
    const part = `C${middle} ${before.y} ${middle} ${point.y} ${point.x} ${point.y}`;
    before = point;
    return part;
  });
  return `M${start.x} ${start.y}${curves.join("")}`;
}
