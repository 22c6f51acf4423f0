// The data of a chart: the rows of a result as places on an axis, and one value per series at each of them.

import { type Cell, isCut } from "../../../api.ts";
import { plural } from "../../../dom.ts";
import { plain, splitUnseen } from "../../../text.ts";
import { isNumber } from "../../../written.ts";
import type { ColumnHead } from "../stream.ts";
import { timeOf } from "./scale.ts";
import type { Spec } from "./spec.ts";

export const MOST_BARS = 300;
export const MOST_POINTS = 5000;
export const MOST_SERIES = 8;
const LONGEST_LABEL = 60;

export type Place = {
  label: string;
  /** The position on an axis of times or numbers; for categories, the index. */
  at: number;
};
/** A value as a number, and as PostgreSQL wrote it; null is a gap. */
export type Value = { number: number; text: string } | null;
export type Series = { name: string; values: Value[] };
export type ChartData = {
  axis: "time" | "number" | "category";
  places: Place[];
  series: Series[];
  /** What the chart leaves out. */
  notes: string[];
};

const isTime = (type: string): boolean => /^(date|timestamp)/.test(type) && !type.includes("[]");

/** Write a text for a label: one line, without characters that hide or reorder text, and not too long. */
export function labelOf(text: string, longest = LONGEST_LABEL): string {
  const shown = splitUnseen(text.slice(0, 4 * longest))
    .map((part) => (typeof part === "string" ? part : part.name))
    .join("");
  const characters = [...shown];
  return characters.length > longest ? `${characters.slice(0, longest - 1).join("")}…` : shown;
}

const textOf = (cell: Cell | undefined): string | null =>
  cell === null || cell === undefined ? null : isCut(cell) ? cell.cut : plain(cell);

function valueIn(cell: Cell | undefined): Value {
  const text = textOf(cell);
  const number = text === null || text.trim() === "" ? Number.NaN : Number(text);
  return text !== null && Number.isFinite(number) ? { number, text } : null;
}

/** Return the columns that may be drawn, those that may be the axis, and those whose values may be series. */
export function columnChoices(heads: ColumnHead[]): { x: string[]; y: string[]; series: string[] } {
  const names = (some: ColumnHead[]): string[] => [...new Set(some.map(({ name }) => name))];
  const isPart = ({ type }: ColumnHead): boolean => !isNumber(type) && !isTime(type);
  return {
    x: names(heads),
    y: names(heads.filter(({ type }) => isNumber(type))),
    series: names(heads.filter(isPart)),
  };
}

/** Choose a chart for a result; null if it has no column of numbers. */
export function firstSpec(heads: ColumnHead[], rowCount: number): Spec | null {
  const numbers = heads.filter(({ type }) => isNumber(type));
  const time = heads.find(({ type }) => isTime(type));
  const x = time ?? heads.find((head) => !numbers.includes(head)) ?? numbers[0];
  // Numbers that name a row are seldom what a chart is for.
  const values = numbers.filter((head) => head !== x);
  const y = values.find(({ name }) => !/(^|_)id$/i.test(name)) ?? values[0];
  return x && y ? { kind: time && rowCount > 60 ? "line" : "bar", x: x.name, y: [y.name], series: null } : null;
}

/** Return why a chart cannot be drawn from a result, or null. */
export function misfit({ x, y, series }: Spec, heads: ColumnHead[]): string | null {
  const names = heads.map(({ name }) => name);
  const missing = [x, ...y, ...(series === null ? [] : [series])].find((name) => !names.includes(name));
  if (missing !== undefined) return `The result has no column named ${labelOf(missing)}.`;
  const other = y.find((name) => !heads.some((head) => head.name === name && isNumber(head.type)));
  return other === undefined ? null : `${labelOf(other)} is not a column of numbers.`;
}

/** Arrange rows for a chart that fits the result. */
export function arrange(spec: Spec, heads: ColumnHead[], rows: Cell[][]): ChartData {
  const indexOf = (name: string): number => heads.findIndex((head) => head.name === name);
  const axisIndex = indexOf(spec.x);
  const axisType = heads[axisIndex]?.type ?? "";
  const axis = isTime(axisType) ? "time" : spec.kind === "line" && isNumber(axisType) ? "number" : "category";
  const notes: string[] = [];
  const groupIndex = spec.series === null ? -1 : indexOf(spec.series);
  const names = groupIndex < 0 ? spec.y : groupNames(rows, groupIndex);
  if (names.length > MOST_SERIES) notes.push(`The first ${MOST_SERIES} of ${names.length} series.`);
  const series: Series[] = names.slice(0, MOST_SERIES).map((name) => ({ name: labelOf(name), values: [] }));
  const seriesAt = new Map(names.slice(0, MOST_SERIES).map((name, index) => [name, index]));
  const values = (row: Cell[]): Value[] => spec.y.map((name) => valueIn(row[indexOf(name)]));

  const places: Place[] = [];
  const known = new Map<string, number>();
  let unplaced = 0;
  for (const row of rows) {
    const text = textOf(row[axisIndex]);
    const at = axisPosition(text, axis, places.length);
    if (at === null) {
      unplaced++;
      continue;
    }
    const group = groupIndex < 0 ? undefined : seriesAt.get(textOf(row[groupIndex]) ?? "NULL");
    if (groupIndex >= 0 && group === undefined) continue;
    // Without series, each row is a place of its own.
    const key = text ?? "NULL";
    let index = groupIndex < 0 ? undefined : known.get(key);
    if (index === undefined) {
      index = places.length;
      known.set(key, index);
      places.push({ label: text === null ? "NULL" : labelOf(text), at });
      for (const one of series) one.values.push(null);
    }
    values(row).forEach((value, order) => {
      const target = series[group ?? order];
      if (target && (groupIndex < 0 || order === 0)) target.values[index] = value;
    });
  }
  if (unplaced) notes.push(`${plural(unplaced, "row")} without a place on the axis.`);
  return shortened(spec, sorted({ axis, places, series, notes }));
}

function groupNames(rows: Cell[][], index: number): string[] {
  return [...new Set(rows.map((row) => textOf(row[index]) ?? "NULL"))];
}

function axisPosition(text: string | null, axis: ChartData["axis"], index: number): number | null {
  if (axis === "category") return index;
  if (text === null) return null;
  if (axis === "time") return timeOf(text);
  const number = Number(text);
  return Number.isFinite(number) ? number : null;
}

/** A line runs along its axis, whatever the order of the rows. */
function sorted(data: ChartData): ChartData {
  if (data.axis === "category") return data;
  const order = data.places.map((_, index) => index);
  order.sort((one, other) => (data.places[one]?.at ?? 0) - (data.places[other]?.at ?? 0));
  return picked(data, order);
}

function picked(data: ChartData, order: number[]): ChartData {
  const pick = <T>(all: T[]): T[] => order.flatMap((index) => (index in all ? [all[index] as T] : []));
  return {
    ...data,
    places: pick(data.places),
    series: data.series.map(({ name, values }) => ({ name, values: pick(values) })),
  };
}

function shortened({ kind }: Spec, data: ChartData): ChartData {
  const most = kind === "bar" ? MOST_BARS : MOST_POINTS;
  const count = data.places.length;
  if (count <= most) return data;
  const [noun, many] = [kind === "bar" ? "bars" : "points", (value: number): string => value.toLocaleString("en")];
  const short = picked(
    data,
    Array.from({ length: most }, (_, index) => index),
  );
  return { ...short, notes: [...data.notes, `The first ${many(most)} of ${many(count)} ${noun}.`] };
}
