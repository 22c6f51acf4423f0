// The diagram: a box for each table, a line for each reference.

import { type Column, rowsPath, type Table } from "../../api.ts";
import { plural, s } from "../../dom.ts";
import { shortType } from "../../text.ts";
import { type Box, curve, HEAD_HEIGHT, type Layout, LINE_HEIGHT, type Line, TIP } from "./layout.ts";

/** Draw the tables and lines. `reveal` receives the box of a table when it gets the focus. */
export function drawScene(tables: Table[], layout: Layout, reveal: (box: Box) => void): SVGGElement {
  const lines = layout.lines.map((line): [Line, SVGGElement] => [line, drawLine(line)]);
  const boxes = tables.map((table) => {
    const box = layout.boxes.get(table.name);
    const light = (on: boolean): void => {
      for (const [{ from, to }, element] of lines)
        element.classList.toggle("lit", on && (from === table.name || to === table.name));
    };
    return box && drawTable(table, box, light, reveal);
  });
  return s(
    "g",
    lines.map(([, element]) => element),
    boxes,
  );
}

function drawLine({ points, left, title }: Line): SVGGElement {
  const start = points[0];
  const end = points.at(-1);
  return s(
    "g",
    { class: "edge" },
    s("title", title),
    s("path", { d: curve(points) }),
    start && s("circle", { cx: start.x, cy: start.y, r: 2.5 }),
    end && s("path", { class: "tip", d: `M${end.x + (left ? -TIP : TIP)} ${end.y}l${left ? TIP : -TIP} -4v8z` }),
  );
}

function drawTable(table: Table, box: Box, light: (on: boolean) => void, reveal: (box: Box) => void): SVGAElement {
  const onfocus = (): void => {
    light(true);
    reveal(box);
  };
  return s(
    "a",
    {
      href: rowsPath(table.name),
      class: "table",
      transform: `translate(${box.x} ${box.y})`,
      "aria-label": `${table.name}, ${plural(table.columns.length, "column")}`,
      onmouseenter: () => light(true),
      onmouseleave: () => light(false),
      onblur: () => light(false),
      onfocus,
    },
    s("rect", { class: "box", width: box.width, height: box.height, rx: 5 }),
    s("path", {
      class: "head",
      d: `M0 ${HEAD_HEIGHT}V5a5 5 0 0 1 5 -5H${box.width - 5}a5 5 0 0 1 5 5V${HEAD_HEIGHT}z`,
    }),
    s("text", { class: "title", x: 10, y: 19 }, table.name),
    table.columns.map((column, index) => drawColumn(column, box.width, HEAD_HEIGHT + LINE_HEIGHT * (index + 1) - 4)),
  );
}

const drawColumn = (column: Column, width: number, y: number): SVGElement[] => [
  s("text", { class: "mark", x: 10, y }, mark(column)),
  s("text", { class: column.nullable ? "column" : "column must", x: 26, y }, column.name),
  s("text", { class: "type", x: width - 10, y, "text-anchor": "end" }, shortType(column.type)),
];

const mark = ({ primary, references, unique }: Column): string =>
  primary ? "◆" : references ? "→" : unique ? "◇" : "";
