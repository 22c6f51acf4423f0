// The chart beside a result: the choice of its columns, its values by mouse and by keys, and its pictures.

import { button, h, menu, number, popover, replace, s } from "../../../dom.ts";
import { pictureOf, savePng, saveSvg } from "../../../picture.ts";
import type { ResultView } from "../result.ts";
import { arrange, type ChartData, columnChoices, firstSpec, labelOf, misfit } from "./data.ts";
import { type Drawing, drawChart } from "./draw.ts";
import type { Spec } from "./spec.ts";

const LEAST_HEIGHT = 180;

/** The chart of a result; `changed` gets each choice, and null when the chart is removed. */
export class ChartPanel {
  readonly element = h("section.chart", { "aria-label": "Chart" });
  private readonly place = h("div.chart-place", {
    role: "slider",
    tabindex: 0,
    "aria-label": "Values of the chart",
    "aria-valuemin": 1,
  });
  private readonly notes = h("p.muted.chart-notes");
  private readonly shown = h("div.chart-value", { "aria-hidden": "true", hidden: true });
  private readonly view: ResultView;
  private readonly changed: (spec: Spec | null) => void;
  private readonly watcher = new ResizeObserver(() => this.draw());
  private spec: Spec | null;
  private drawing: Drawing | null = null;
  private data: ChartData | null = null;
  private readonly problem = h("p.chart-problem", { role: "status" });
  private readonly values = button("", () => this.chooseValues(), { "aria-haspopup": "dialog" });
  private readonly series: HTMLSelectElement;
  private at = 0;

  constructor(view: ResultView, spec: Spec | null, changed: (spec: Spec | null) => void) {
    this.view = view;
    this.changed = changed;
    this.spec = spec;
    this.place.addEventListener("pointermove", (event) => this.point(event));
    this.place.addEventListener("pointerleave", () => this.hide());
    this.place.addEventListener("blur", () => this.hide());
    this.place.addEventListener("focus", () => this.show(this.at));
    this.place.addEventListener("keydown", (event) => this.walk(event));
    this.series = select(named(["", ...columnChoices(view.heads).series]), this.spec?.series ?? "", (name) =>
      this.choose({ series: name || null }),
    );
    replace(this.element, this.controls(), this.problem, this.place, this.notes);
    this.update();
    this.watcher.observe(this.place);
  }

  destroy(): void {
    this.watcher.disconnect();
  }

  /** Draw again, after rows have arrived. */
  update(): void {
    const problem = this.spec ? misfit(this.spec, this.view.heads) : "A chart needs a column of numbers.";
    this.data = this.spec && !problem ? arrange(this.spec, this.view.heads, this.view.rows) : null;
    this.problem.textContent = problem ?? (this.data?.places.length ? "" : "No rows");
    this.problem.hidden = this.problem.textContent === "";
    this.place.hidden = !this.data?.places.length;
    this.notes.textContent = this.data?.notes.join(" ") ?? "";
    this.values.textContent = `Values: ${this.spec?.y.map((name) => labelOf(name, 20)).join(", ") ?? "none"}`;
    this.series.value = this.spec?.series ?? "";
    this.draw();
  }

  private choose(part: Partial<Spec>): void {
    const before = this.spec ?? firstSpec(this.view.heads, this.view.rows.length);
    if (!before) return;
    this.spec = { ...before, ...part };
    // Series are the values of one column.
    if (this.spec.series !== null) this.spec.y = this.spec.y.slice(0, 1);
    this.changed(this.spec);
    this.update();
  }

  private controls(): HTMLElement {
    const { x, series } = columnChoices(this.view.heads);
    const kinds: [string, string][] = [
      ["bar", "Bars"],
      ["line", "Line"],
    ];
    const kind = select(kinds, this.spec?.kind ?? "bar", (value) =>
      this.choose({ kind: value === "line" ? value : "bar" }),
    );
    const axis = select(named(x), this.spec?.x ?? "", (name) => this.choose({ x: name }));
    const picture = button("Save picture", () => this.offerPictures(picture), { "aria-haspopup": "menu" });
    return h(
      "div.chart-controls",
      labelled("Chart", kind),
      labelled("Axis", axis),
      this.values,
      series.length > 0 && labelled("Series", this.series),
      h("span.grow"),
      picture,
      button("×", () => this.changed(null), { "aria-label": "Remove chart", class: "quiet" }),
    );
  }

  private chooseValues(): void {
    const names = columnChoices(this.view.heads).y;
    const boxes = names.map((name) => {
      const onchange = (): void => {
        const chosen = names.filter((_, index) => boxes[index]?.querySelector("input")?.checked);
        if (chosen.length) this.choose({ y: chosen, series: chosen.length > 1 ? null : (this.spec?.series ?? null) });
      };
      const checked = this.spec?.y.includes(name) ?? false;
      return h("label", h("input", { type: "checkbox", checked, onchange }), labelOf(name));
    });
    popover(this.values, "Values of the chart", h("div.chart-values", boxes));
  }

  // --- Drawing ----------------------------------------------------------------------------------------------------

  private draw(): void {
    if (!this.data || !this.spec || !this.place.isConnected) return;
    const size = {
      width: Math.max(240, this.place.clientWidth),
      height: Math.max(LEAST_HEIGHT, this.place.clientHeight),
    };
    this.drawing = drawChart(this.spec, this.data, size);
    replace(this.place, this.drawing.svg, this.shown);
    this.place.setAttribute("aria-valuemax", String(Math.max(1, this.data.places.length)));
    this.at = Math.min(this.at, Math.max(0, this.data.places.length - 1));
    this.describe();
  }

  /** Say what the chart shows, for screen readers; the table beside it holds the same values. */
  private describe(): void {
    if (!this.spec || !this.data) return;
    const { kind, x } = this.spec;
    const names = this.data.series.map(({ name }) => name).join(", ");
    const many = `${number(this.data.places.length)} ${this.data.places.length === 1 ? "value" : "values"}`;
    const name = `${kind === "bar" ? "Bars" : "Line"} of ${names} by ${labelOf(x)}, ${many}; arrow keys read them`;
    this.place.setAttribute("aria-label", name);
    this.place.setAttribute("aria-valuenow", String(this.at + 1));
    this.place.setAttribute("aria-valuetext", this.read(this.at).join("; "));
  }

  private read(index: number): string[] {
    const place = this.data?.places[index];
    if (!place || !this.data) return ["No rows"];
    return [place.label, ...this.data.series.map(({ name, values }) => `${name}: ${values[index]?.text ?? "NULL"}`)];
  }

  private show(index: number): void {
    const { drawing } = this;
    const x = drawing?.centres[index];
    if (!drawing || x === undefined) return;
    this.at = index;
    this.describe();
    for (const old of drawing.svg.querySelectorAll(".pointer")) old.remove();
    drawing.svg.append(s("line", { class: "pointer", x1: x, x2: x, y1: drawing.top, y2: drawing.bottom }));
    const [head = "", ...values] = this.read(index);
    replace(
      this.shown,
      h("strong", head),
      values.map((value, order) => h("div", { class: `series-${order + 1}` }, value)),
    );
    this.shown.hidden = false;
    const isLeft = x > drawing.size.width / 2;
    this.shown.style.left = isLeft ? "" : `${x + 10}px`;
    this.shown.style.right = isLeft ? `${drawing.size.width - x + 10}px` : "";
  }

  private hide(): void {
    this.shown.hidden = true;
    for (const old of this.drawing?.svg.querySelectorAll(".pointer") ?? []) old.remove();
  }

  private point(event: PointerEvent): void {
    const centres = this.drawing?.centres ?? [];
    const x = event.clientX - this.place.getBoundingClientRect().left;
    let best = 0;
    centres.forEach((centre, index) => {
      if (Math.abs(centre - x) < Math.abs((centres[best] ?? 0) - x)) best = index;
    });
    this.show(best);
  }

  private walk(event: KeyboardEvent): void {
    const last = (this.data?.places.length ?? 1) - 1;
    const { at } = this;
    const steps = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last };
    const pages = { PageUp: at - 10, PageDown: at + 10 };
    const next = { ...steps, ...pages }[event.key];
    if (event.key === "Escape") this.hide();
    else if (next === undefined) return;
    else this.show(Math.max(0, Math.min(last, next)));
    event.preventDefault();
    event.stopPropagation();
  }

  // --- Pictures ---------------------------------------------------------------------------------------------------

  private offerPictures(anchor: HTMLElement): void {
    const { drawing } = this;
    if (!drawing) return;
    this.hide();
    const name = labelOf(this.view.name).replace(/[^\p{L}\p{N} _-]/gu, "_");
    menu(anchor, "Save picture", [
      ["SVG", () => saveSvg(pictureOf(drawing.svg, drawing.size), `${name}.svg`)],
      ["PNG", () => void savePng(pictureOf(drawing.svg, drawing.size), drawing.size, `${name}.png`)],
    ]);
  }
}

const named = (names: string[]): [string, string][] => names.map((name) => [name, name ? labelOf(name, 30) : "none"]);

function select(choices: [string, string][], chosen: string, choose: (value: string) => void): HTMLSelectElement {
  const options = choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  const element = h("select", { onchange: () => choose(element.value) }, options);
  return element;
}

function labelled(name: string, element: HTMLSelectElement): HTMLLabelElement {
  // Otherwise the name would contain the names of all choices.
  element.setAttribute("aria-label", name);
  return h("label", h("span.muted", `${name} `), element);
}
