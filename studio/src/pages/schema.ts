// The tables and what refers to what, as a diagram, and as an outline for those who hear it.

import { Graph, layout } from "@dagrejs/dagre";
import { rowsPath, type Table } from "../api.ts";
import { button, h, s } from "../dom.ts";
import type { Page } from "../router.ts";
import { session } from "../session.ts";
import { shortType } from "../values.ts";

const WIDTH = 226;
const LINE = 19;
const HEAD = 28;

const keyMark = (table: Table, name: string): string => {
  const column = table.columns.find((other) => other.name === name);
  return column?.primary ? "◆" : column?.references ? "→" : column?.unique ? "◇" : "";
};

export function schemaPage(): Page {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 26, ranksep: 84, marginx: 16, marginy: 16 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const table of session.tables)
    graph.setNode(table.name, { width: WIDTH, height: HEAD + LINE * table.columns.length + 6 });
  for (const table of session.tables)
    for (const column of table.columns)
      if (column.references) graph.setEdge(table.name, column.references.table, {}, column.name);
  layout(graph);
  const size = graph.graph() as { width: number; height: number };
  const boxOf = (name: string): { x: number; y: number; width: number; height: number } => {
    const node = graph.node(name) as { x: number; y: number; width: number; height: number };
    return { ...node, x: node.x - node.width / 2, y: node.y - node.height / 2 };
  };

  // --- Drawing -------------------------------------------------------------------------------------------------------

  const edges = session.tables.flatMap((table) =>
    table.columns.flatMap((column, index) => {
      if (!column.references) return [];
      const from = boxOf(table.name);
      const to = boxOf(column.references.table);
      const target = session.tables.find(({ name }) => name === column.references?.table);
      const row = Math.max(0, target?.columns.findIndex(({ name }) => name === column.references?.column) ?? 0);
      const y1 = from.y + HEAD + LINE * (index + 0.5) + 2;
      const y2 = to.y + HEAD + LINE * (row + 0.5) + 2;
      // From the side that looks at the other table, along the way that dagre found between the tables.
      const left = to.x + to.width / 2 < from.x + from.width / 2;
      const x1 = left ? from.x : from.x + from.width;
      const x2 = left ? to.x + to.width : to.x;
      const way = (
        graph.edge(table.name, column.references.table, column.name) as { points: { x: number; y: number }[] }
      ).points.slice(1, -1);
      const between = way.filter((point) => Math.abs(point.x - x1) + Math.abs(point.x - x2) <= Math.abs(x1 - x2));
      const stops = [{ x: x1, y: y1 }, ...(between.length > 1 ? between : []), { x: x2 + (left ? 8 : -8), y: y2 }];
      const path = stops.slice(1).map((stop, at) => {
        const middle = (stops[at]!.x + stop.x) / 2;
        return `C${middle} ${stops[at]!.y} ${middle} ${stop.y} ${stop.x} ${stop.y}`;
      });
      return s(
        "g",
        { class: "edge", "data-from": table.name, "data-to": column.references.table },
        s("title", `${table.name}.${column.name} → ${column.references.table}.${column.references.column}`),
        s("path", { d: `M${x1} ${y1}${path.join("")}` }),
        s("circle", { cx: x1, cy: y1, r: 2.5 }),
        s("path", { class: "tip", d: `M${x2} ${y2}l${left ? 8 : -8} -4v8z` }),
      );
    }),
  );
  const nodes = session.tables.map((table) => {
    const box = boxOf(table.name);
    const light = (on: boolean): void => {
      for (const edge of edges)
        edge.classList.toggle(
          "lit",
          on && [edge.getAttribute("data-from"), edge.getAttribute("data-to")].includes(table.name),
        );
    };
    return s(
      "a",
      {
        href: rowsPath(table.name),
        class: "table",
        transform: `translate(${box.x} ${box.y})`,
        "aria-label": `${table.name}, ${table.columns.length} columns`,
        onmouseenter: () => light(true),
        onmouseleave: () => light(false),
        onblur: () => light(false),
        onfocus: () => {
          light(true);
          reveal(box);
        },
      },
      s("rect", { class: "box", width: box.width, height: box.height, rx: 5 }),
      s("path", { class: "head", d: `M0 ${HEAD}V5a5 5 0 0 1 5 -5H${box.width - 5}a5 5 0 0 1 5 5V${HEAD}z` }),
      s("text", { class: "title", x: 10, y: 19 }, table.name),
      table.columns.map((column, index) => {
        const y = HEAD + LINE * (index + 1) - 4;
        return [
          s("text", { class: "mark", x: 10, y }, keyMark(table, column.name)),
          s("text", { class: column.nullable ? "column" : "column must", x: 26, y }, column.name),
          s("text", { class: "type", x: box.width - 10, y, "text-anchor": "end" }, shortType(column.type)),
        ];
      }),
    );
  });
  const scene = s("g", edges, nodes);
  const svg = s(
    "svg",
    {
      class: "diagram",
      role: "group",
      "aria-label": "Diagram of the tables; the outline says the same in words",
      tabindex: 0,
    },
    scene,
  );

  // --- Zoom and pan --------------------------------------------------------------------------------------------------

  let zoom = 1;
  let x = 0;
  let y = 0;
  const set = (): void => scene.setAttribute("transform", `translate(${x} ${y}) scale(${zoom})`);
  const zoomAt = (factor: number, cx = svg.clientWidth / 2, cy = svg.clientHeight / 2): void => {
    const next = Math.max(0.15, Math.min(3, zoom * factor));
    x = cx - ((cx - x) * next) / zoom;
    y = cy - ((cy - y) * next) / zoom;
    zoom = next;
    set();
  };
  const showAll = (): void => {
    zoom = Math.min(1.2, svg.clientWidth / size.width, svg.clientHeight / size.height) || 1;
    x = (svg.clientWidth - size.width * zoom) / 2;
    y = (svg.clientHeight - size.height * zoom) / 2;
    set();
  };
  const reveal = (box: { x: number; y: number; width: number; height: number }): void => {
    const [left, top] = [box.x * zoom + x, box.y * zoom + y];
    if (left < 0 || left + box.width * zoom > svg.clientWidth) x += svg.clientWidth / 2 - left - (box.width * zoom) / 2;
    if (top < 0 || top + 40 > svg.clientHeight) y += 20 - top;
    set();
  };
  svg.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoomAt(Math.exp(-event.deltaY / 500), event.offsetX, event.offsetY);
    },
    { passive: false },
  );
  svg.addEventListener("pointerdown", (start) => {
    if (start.button) return;
    const [fromX, fromY] = [x - start.clientX, y - start.clientY];
    let moved = false;
    const drag = (event: PointerEvent): void => {
      if (!moved && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) < 4) return;
      moved = true;
      svg.setPointerCapture(start.pointerId);
      x = fromX + event.clientX;
      y = fromY + event.clientY;
      set();
    };
    svg.addEventListener("pointermove", drag);
    svg.addEventListener(
      "pointerup",
      () => {
        svg.removeEventListener("pointermove", drag);
        // A drag that ends on a table opens nothing.
        if (moved)
          svg.addEventListener(
            "click",
            (event) => {
              event.preventDefault();
              event.stopPropagation();
            },
            { once: true, capture: true },
          );
      },
      { once: true },
    );
  });
  svg.addEventListener("dragstart", (event) => event.preventDefault());

  function save(): void {
    const copy = svg.cloneNode(true) as SVGSVGElement;
    const from = [svg, ...svg.querySelectorAll<SVGElement>("*")];
    [copy, ...copy.querySelectorAll<SVGElement>("*")].forEach((element, index) => {
      const style = getComputedStyle(from[index]!);
      for (const name of ["fill", "stroke", "stroke-width", "font-family", "font-size", "font-weight"])
        element.setAttribute(name, style.getPropertyValue(name));
      for (const name of ["class", "tabindex", "role", "aria-label", "style"]) element.removeAttribute(name);
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    copy.setAttribute("width", String(size.width));
    copy.setAttribute("height", String(size.height));
    copy.querySelector("g")?.removeAttribute("transform");
    const ground = s("rect", {
      width: size.width,
      height: size.height,
      fill: getComputedStyle(document.body).backgroundColor,
    });
    copy.prepend(ground);
    const address = URL.createObjectURL(
      new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }),
    );
    h("a", { href: address, download: `${session.database}-schema.svg` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  // --- In words ------------------------------------------------------------------------------------------------------

  const outline = h(
    "section.outline.sr",
    { "aria-label": "Outline" },
    h("h2", "Outline"),
    session.tables.map((table) => [
      h("h3", h("a", { href: rowsPath(table.name) }, table.name)),
      h(
        "ul",
        table.columns.map((column) =>
          h(
            "li",
            h("b", column.name),
            ` ${column.type}`,
            column.primary ? ", primary key" : "",
            column.unique ? ", unique" : "",
            column.nullable ? "" : ", never NULL",
            column.references ? `, refers to ${column.references.table}.${column.references.column}` : "",
            column.default ? `, default ${column.default}` : "",
          ),
        ),
      ),
      table.referenced_by.length
        ? h("p", "Referred to by ", table.referenced_by.map((by) => `${by.table}.${by.column}`).join(", "))
        : "",
    ]),
  );
  const words = button(
    "Outline",
    () => {
      const hidden = outline.classList.toggle("sr");
      words.setAttribute("aria-pressed", String(!hidden));
      requestAnimationFrame(showAll);
    },
    { "aria-pressed": "false" },
  );

  const element = h(
    "section.schema",
    h(
      "div.toolbar",
      h("h1", "Schema"),
      h("span.muted.legend", "◆ primary key · → reference · ◇ unique · bold: never NULL"),
      h("span.grow"),
      button("−", () => zoomAt(1 / 1.25), { "aria-label": "Smaller" }),
      button("+", () => zoomAt(1.25), { "aria-label": "Larger" }),
      button("Show all", showAll),
      words,
      button("Export SVG", save),
    ),
    h("div.split", svg, outline),
  );
  const watch = new ResizeObserver(() => showAll());
  watch.observe(svg);
  const pan = (dx: number, dy: number) => (): void => {
    x += dx;
    y += dy;
    set();
  };
  return {
    title: "Schema",
    element,
    leave: () => watch.disconnect(),
    keys: {
      "+": () => zoomAt(1.25),
      "=": () => zoomAt(1.25),
      "-": () => zoomAt(1 / 1.25),
      "0": showAll,
      ArrowLeft: pan(60, 0),
      ArrowRight: pan(-60, 0),
      ArrowUp: pan(0, 60),
      ArrowDown: pan(0, -60),
    },
  };
}
