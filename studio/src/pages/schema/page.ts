// The schema page: the tables and their references, as a diagram and as an outline.

import { button, h, s } from "../../dom.ts";
import type { Shortcuts } from "../../help.ts";
import { pictureOf, saveSvg } from "../../picture.ts";
import type { Page } from "../../router.ts";
import { session } from "../../session.ts";
import { drawScene } from "./diagram.ts";
import { layOut } from "./layout.ts";
import { outlineOf } from "./outline.ts";
import { View } from "./view.ts";

const STEP = 60;
const ZOOM = 1.25;

export function schemaPage(): Page {
  const layout = layOut(session.tables);
  const scene = drawScene(session.tables, layout, (box) => view.reveal(box));
  const label = "Diagram of the tables; the outline has the same content as text";
  const svg = s("svg", { class: "diagram", role: "group", "aria-label": label, tabindex: 0 }, scene);
  const view = new View(svg, scene, layout);
  const outline = outlineOf(session.tables);
  const outlineButton = button(
    "Outline",
    () => {
      const isHidden = outline.classList.toggle("sr");
      outlineButton.setAttribute("aria-pressed", String(!isHidden));
      requestAnimationFrame(() => view.showAll());
    },
    { "aria-pressed": "false" },
  );
  const tools = [
    button("−", () => view.zoomBy(1 / ZOOM), { "aria-label": "Zoom out" }),
    button("+", () => view.zoomBy(ZOOM), { "aria-label": "Zoom in" }),
    button("Fit to window", () => view.showAll()),
    outlineButton,
    button("Export SVG", () => saveSvg(pictureOf(svg, layout, "g"), `${session.database}-schema.svg`)),
  ];
  const legend = h("span.muted.legend", "◆ primary key · → reference · ◇ unique · bold: not null");
  const resizes = new ResizeObserver(() => view.showAll());
  resizes.observe(svg);
  return {
    title: "Schema",
    element: h(
      "section.schema",
      h("div.toolbar", h("h1", "Schema"), legend, h("span.grow"), tools),
      h("div.split", svg, outline),
    ),
    leave: () => resizes.disconnect(),
    keys: keys(view),
  };
}

const keys = (view: View): Shortcuts => ({
  "+": () => view.zoomBy(ZOOM),
  "=": () => view.zoomBy(ZOOM),
  "-": () => view.zoomBy(1 / ZOOM),
  "0": () => view.showAll(),
  ArrowLeft: () => view.moveBy(STEP, 0),
  ArrowRight: () => view.moveBy(-STEP, 0),
  ArrowUp: () => view.moveBy(0, STEP),
  ArrowDown: () => view.moveBy(0, -STEP),
});
