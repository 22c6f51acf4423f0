// Draws a chart as SVG.

import { s } from "../../../dom.ts";
import { type ChartData, labelOf, type Place } from "./data.ts";
import { numberTicks, type Tick, timeTicks } from "./scale.ts";
import type { Spec } from "./spec.ts";

export type Size = { width: number; height: number };
export type Drawing = {
  svg: SVGSVGElement;
  size: Size;
  /** The horizontal centre of each place. */
  centres: number[];
  /** The top and the bottom of the area of the values. */
  top: number;
  bottom: number;
};

const TOP = 12;
const RIGHT = 16;
const LABEL_PX = 6.6;
const TICK_PX = 48;
const LEGEND_PX = 18;
const MOST_LABEL_PX = 120;
const SLANT = 40;
const SLANTED_LETTERS = 18;
const [SIN_OF_SLANT, COS_OF_SLANT] = [Math.sin((SLANT * Math.PI) / 180), Math.cos((SLANT * Math.PI) / 180)];
/** The share of its place that a bar takes. */
const BAR_SHARE = 0.82;

export function drawChart(spec: Spec, data: ChartData, { width, height }: Size): Drawing {
  const legend = data.series.length > 1 ? legendOf(data, width) : { rows: 0, parts: [] };
  const isSlanted = data.axis === "category" && slants(data.places, width);
  const widest = Math.max(...data.places.map(({ label }) => widthOf(labelOf(label, SLANTED_LETTERS))), 1);
  const under = isSlanted ? Math.min(MOST_LABEL_PX, widest * SIN_OF_SLANT + 18) : 22;
  const top = TOP + legend.rows * LEGEND_PX;
  const bottom = height - under - 14;
  const ticks = valueTicks(spec, data, bottom - top);
  // The first slanted name ends below the first bar, so it starts left of it.
  const left = Math.max(
    isSlanted ? widest * COS_OF_SLANT : 30,
    ...ticks.map(({ label }) => label.length * LABEL_PX + 14),
  );
  const [low, high] = [ticks[0]?.at ?? 0, ticks.at(-1)?.at ?? 1];
  const y = (value: number): number => bottom - ((value - low) / (high - low || 1)) * (bottom - top);
  const across = acrossOf(data, left, width - RIGHT, spec.kind === "bar");
  const centres = data.places.map(({ at }) => across.x(at));
  const parts = [
    ticks.map((tick) => valueTick(tick, y(tick.at), left, width - RIGHT)),
    axisTicks(data, across.x, left, width - RIGHT).map((tick) => axisTick(tick, across.x(tick.at), bottom, isSlanted)),
    spec.kind === "bar" ? bars(data, centres, across.band, y) : lines(data, centres, y),
    s("line", {
      class: "axis",
      x1: left,
      x2: width - RIGHT,
      y1: y(clamped(0, low, high)),
      y2: y(clamped(0, low, high)),
    }),
    s("text", { class: "name", x: width - RIGHT, y: height - 4, "text-anchor": "end" }, labelOf(spec.x)),
    legend.parts,
  ];
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, ...parts);
  return { svg, size: { width, height }, centres, top, bottom };
}

/** Estimate the width of a label. Chinese, Japanese and Korean letters are nearly twice as wide as others. */
const widthOf = (label: string): number =>
  [...label].reduce((width, letter) => width + (letter > "\u2e80" ? 1.8 : 1) * LABEL_PX, 0);

const clamped = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));

// --- Axes -----------------------------------------------------------------------------------------------------------

function valueTicks(spec: Spec, { series }: ChartData, height: number): Tick[] {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const { values } of series)
    for (const value of values) {
      if (!value) continue;
      low = Math.min(low, value.number);
      high = Math.max(high, value.number);
    }
  if (low > high) [low, high] = [0, 1];
  // The length of a bar is its value. A line that would use less than half the height otherwise needs no zero.
  const needsZero = spec.kind === "bar" || (low >= 0 ? low < high / 2 : high <= 0 ? high > low / 2 : true);
  if (needsZero) [low, high] = [Math.min(0, low), Math.max(0, high)];
  return numberTicks(low, high, Math.max(2, Math.floor(height / TICK_PX)));
}

const valueTick = ({ label }: Tick, y: number, left: number, right: number): SVGElement =>
  s(
    "g",
    s("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
    s("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, label),
  );

type Across = {
  x: (at: number) => number;
  /** The width of a place. */
  band: number;
};

function acrossOf({ axis, places }: ChartData, left: number, right: number, isBars: boolean): Across {
  const count = Math.max(1, places.length);
  if (axis === "category") {
    const band = (right - left) / count;
    return { x: (index) => left + (index + 0.5) * band, band };
  }
  const positions = places.map(({ at }) => at);
  const [low, high] = [positions[0] ?? 0, positions.at(-1) ?? 1];
  const gaps = positions.slice(1).map((at, index) => at - (positions[index] ?? 0));
  const smallest = Math.min(...gaps.filter((gap) => gap > 0), high - low || 1);
  // Bars stand on their time, as wide as the shortest distance between two of them.
  const margin = isBars ? smallest / 2 : high > low ? 0 : 1;
  const perUnit = (right - left) / (high - low + 2 * margin);
  return { x: (at) => left + (at - low + margin) * perUnit, band: Math.max(2, smallest * perUnit) };
}

function axisTicks({ axis, places }: ChartData, x: (at: number) => number, left: number, right: number): Tick[] {
  const [low, high] = [places[0]?.at ?? 0, places.at(-1)?.at ?? 0];
  if (axis === "time" && high > low) {
    const ticks = timeTicks(low, high, (right - left) / 70);
    if (ticks.length > 1) return ticks;
  }
  if (axis === "number") return numberTicks(low, high, (right - left) / 70).filter(({ at }) => at >= low && at <= high);
  // As many names as have room.
  const step = Math.max(1, Math.ceil((places.length * (slants(places, right - left) ? 16 : 70)) / (right - left)));
  const room = (right - left) / Math.max(1, places.length);
  const fits = slants(places, right - left) ? SLANTED_LETTERS : Math.max(4, Math.floor((room * step) / LABEL_PX));
  return places
    .filter((_, index) => index % step === 0)
    .map(({ at, label }) => ({ at, label: labelOf(label, Math.max(fits, 6)) }))
    .filter(({ at }) => Number.isFinite(x(at)));
}

/** True if the names of the places have no room beside each other. */
const slants = (places: Place[], width: number): boolean =>
  places.some(({ label }) => [...label].length * LABEL_PX > width / places.length) && places.length > 1;

function axisTick({ label }: Tick, x: number, bottom: number, isSlanted: boolean): SVGElement {
  const place = isSlanted
    ? { transform: `translate(${x + 4} ${bottom + 12}) rotate(-${SLANT})`, "text-anchor": "end" }
    : { x, y: bottom + 16, "text-anchor": "middle" };
  return s("g", s("line", { class: "tick", x1: x, x2: x, y1: bottom, y2: bottom + 4 }), s("text", place, label));
}

// --- Values ---------------------------------------------------------------------------------------------------------

function bars({ series }: ChartData, centres: number[], band: number, y: (value: number) => number): SVGElement[] {
  const width = Math.max(1, (band * BAR_SHARE) / series.length);
  return series.map(({ values }, order) => {
    const rects = values.map((value, index) => {
      if (!value) return null;
      const [from, to] = [y(Math.max(0, value.number)), y(Math.min(0, value.number))];
      const x = (centres[index] ?? 0) - (width * series.length) / 2 + order * width;
      return s("rect", { x, y: from, width, height: Math.max(0.5, to - from) });
    });
    return s("g", { class: `series-${order + 1}` }, rects);
  });
}

/** Draw a line with a gap where a value is NULL, and a point where a value has no neighbour. */
function lines({ series }: ChartData, centres: number[], y: (value: number) => number): SVGElement[] {
  return series.map(({ values }, order) => {
    const points: SVGElement[] = [];
    let path = "";
    values.forEach((value, index) => {
      if (!value) return;
      const [x, height] = [(centres[index] ?? 0).toFixed(1), y(value.number).toFixed(1)];
      path += `${values[index - 1] ? "L" : "M"}${x} ${height}`;
      const isAlone = !values[index - 1] && !values[index + 1];
      if (isAlone || values.length <= 60) points.push(s("circle", { cx: x, cy: height, r: 2.5 }));
    });
    return s("g", { class: `series-${order + 1}` }, s("path", { d: path }), points);
  });
}

function legendOf({ series }: ChartData, width: number): { rows: number; parts: SVGElement[] } {
  let [x, row] = [40, 0];
  const parts = series.map(({ name }, order) => {
    const label = labelOf(name, 24);
    const wide = [...label].length * LABEL_PX + 30;
    if (x + wide > width && x > 40) [x, row] = [40, row + 1];
    const part = s(
      "g",
      { class: `series-${order + 1}` },
      s("rect", { x, y: 6 + row * LEGEND_PX, width: 10, height: 10 }),
      s("text", { x: x + 15, y: 15 + row * LEGEND_PX }, label),
    );
    x += wide;
    return part;
  });
  return { rows: row + 1, parts };
}
