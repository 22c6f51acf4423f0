// A filter: conditions joined by AND or OR, in nested groups. The address of a page holds it as JSON.

import type { Whole } from "../api.ts";
import { keyParts } from "../names.ts";

export type Condition = { column: string; op: string; value?: string | string[] };
export type Group = { all: Filter[] } | { any: Filter[] };
export type Filter = Condition | Group;
export type Joiner = "and" | "or";

const WITHOUT_VALUE = new Set(["null", "not null", "empty"]);
const MANY_VALUES = new Set(["in", "has any"]);

/** Return the number of values that an operator takes. */
export const valuesOf = (op: string): "none" | "one" | "two" | "many" =>
  WITHOUT_VALUE.has(op) ? "none" : op === "between" ? "two" : MANY_VALUES.has(op) ? "many" : "one";

export const isGroup = (filter: Filter): filter is Group => "all" in filter || "any" in filter;
export const partsOf = (group: Group): Filter[] => ("all" in group ? group.all : group.any);
export const joinerOf = (group: Group): Joiner => ("all" in group ? "and" : "or");
export const groupOf = (joiner: Joiner, parts: Filter[]): Group => (joiner === "and" ? { all: parts } : { any: parts });
export const otherJoiner = (joiner: Joiner): Joiner => (joiner === "and" ? "or" : "and");

/** True for the operators that compare with one value of the column. */
export const isEquality = (op: string): boolean => op === "is" || op === "is not";

/** Parse the filter of an address. Invalid text gives an empty filter. */
export function readFilter(text: string | null): Group {
  try {
    const filter: Filter = JSON.parse(text ?? "null") ?? { all: [] };
    return isGroup(filter) ? filter : { all: [filter] };
  } catch {
    return { all: [] };
  }
}

/** Return the filter in the form that an address holds, or null if it is empty. */
export const writeFilter = (group: Group): string | null => (partsOf(group).length ? JSON.stringify(group) : null);

/** Return the filter with one more condition that must match. */
export function narrowed(group: Group, condition: Condition): Group {
  if ("all" in group) return { all: [...group.all, condition] };
  return { all: group.any.length ? [group, condition] : [condition] };
}

export const withPart = (group: Group, part: Filter): Group => groupOf(joinerOf(group), [...partsOf(group), part]);

export const replacePart = (group: Group, at: number, part: Filter): Group =>
  groupOf(
    joinerOf(group),
    partsOf(group).map((other, index) => (index === at ? part : other)),
  );

export const withoutPart = (group: Group, at: number): Group =>
  groupOf(
    joinerOf(group),
    partsOf(group).filter((_, index) => index !== at),
  );

/** Build a condition from the fields of its form. Operators that take many values have one field, with one value per line. */
export function conditionOf(column: string, op: string, fields: string[]): Condition {
  const [first = ""] = fields;
  const values = {
    none: undefined,
    one: first,
    two: fields,
    many: first.split("\n").filter((line) => line !== ""),
  }[valuesOf(op)];
  return values === undefined ? { column, op } : { column, op, value: values };
}

/** Return the initial values of the form of a condition. */
export const fieldsOf = ({ value }: Condition): string[] =>
  Array.isArray(value) ? value : value === undefined ? [] : [value];

type Valued = { name: string; kind: string };

/** Build the condition that a column has a value. */
export const equalTo = ({ name, kind }: Valued, value: Whole): Condition =>
  value === null
    ? { column: name, op: "null" }
    : { column: name, op: kind === "array" ? "has any" : "is", value: value as string | string[] };

/** Build the condition that a column has another value, or NULL. */
export const unequalTo = ({ name }: Valued, value: Whole): Condition =>
  value === null ? { column: name, op: "not null" } : { column: name, op: "is not", value: value as string };

/** Build the condition that selects rows by their keys. */
export function keysAre(columns: Valued[], keys: string[]): Filter {
  const [only, another] = columns;
  if (only && !another)
    return keys.length === 1 ? equalTo(only, keys[0] ?? "") : { column: only.name, op: "in", value: keys };
  const parts = keys.map((key) =>
    keyParts(
      columns.map(({ name }) => name),
      key,
    ),
  );
  const rows = parts.map((values): Group => ({ all: columns.map((column, at) => equalTo(column, values[at] ?? "")) }));
  return { any: rows };
}

/** Describe a condition, without its column. */
export function describe({ op, value }: Condition): string {
  if (WITHOUT_VALUE.has(op)) return `is ${op.replace("null", "NULL")}`;
  if (op === "between" && Array.isArray(value)) return `is between ${value[0]} and ${value[1]}`;
  return `${op} ${Array.isArray(value) ? value.join(", ") : value === "" ? "(empty text)" : value}`;
}
