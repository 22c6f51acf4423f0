import assert from "node:assert/strict";
import { test } from "node:test";
import { arrange, columnChoices, firstSpec, labelOf, MOST_BARS, misfit } from "../src/pages/sql/chart/data.ts";
import { numberTicks, timeOf, timeTicks } from "../src/pages/sql/chart/scale.ts";
import { readSpec, type Spec, withSpec, writeSpec } from "../src/pages/sql/chart/spec.ts";
import { chartStore, withComments } from "../src/pages/sql/chart/store.ts";

const labels = (ticks: { label: string }[]): string[] => ticks.map(({ label }) => label);

test("a chart comment is read, written and replaced", () => {
  const spec: Spec = { kind: "bar", x: "week", y: ["checkins", 'Odd "Name"'], series: null };
  assert.equal(writeSpec(spec), '-- chart: bar x=week y=checkins y="Odd ""Name"""');
  assert.deepEqual(readSpec(`-- By week\n${writeSpec(spec)}\nSELECT 1`), spec);
  assert.deepEqual(readSpec("select 1 --chart: LINE y=b x=a series=c"), null);
  assert.deepEqual(readSpec("  -- Chart: LINE y=b x=a series=c"), { kind: "line", x: "a", y: ["b"], series: "c" });
  assert.equal(readSpec("-- chart: bar x=a"), null);
  assert.equal(readSpec("-- chart: pie x=a y=b"), null);
  const first = withSpec("-- About.\nSELECT 1", spec);
  assert.equal(first, `-- About.\n${writeSpec(spec)}\nSELECT 1`);
  const next = { ...spec, kind: "line" as const, y: ["$& $1"] };
  assert.equal(withSpec(first, next), '-- About.\n-- chart: line x=week y="$& $1"\nSELECT 1');
  assert.equal(withSpec(first, null), "-- About.\nSELECT 1");
  assert.equal(withSpec("SELECT 1", null), "SELECT 1");
  assert.equal(writeSpec({ ...spec, x: "two\nlines" }), "");
});

test("the ticks of numbers are round and enclose the values", () => {
  assert.deepEqual(labels(numberTicks(0, 97, 5)), ["0", "20", "40", "60", "80", "100"]);
  assert.deepEqual(labels(numberTicks(-3, 4, 4)), ["-4", "-2", "0", "2", "4"]);
  assert.deepEqual(labels(numberTicks(0, 0.3, 3)), ["0", "0.1", "0.2", "0.3"]);
  assert.deepEqual(labels(numberTicks(0, 3e6, 3)), ["0", "1M", "2M", "3M"]);
  assert.deepEqual(labels(numberTicks(0, 0, 3)).at(0), "0");
  for (const [low, high] of [
    [7, 7],
    [-5, -5],
    [0, 1e300],
    [-1.7e308, 1.7e308],
    [9007199254740992, 9007199254740994],
    [1e-320, 2e-320],
  ] as const) {
    const ticks = numberTicks(low, high, 5);
    assert.ok(ticks.length >= 2 && ticks.length <= 12, `${low} ${high}: ${ticks.length}`);
    assert.ok((ticks[0]?.at ?? 0) <= low && (ticks.at(-1)?.at ?? 0) >= high, `${low} ${high}`);
  }
});

test("PostgreSQL's times are read, infinity and words are not", () => {
  assert.equal(timeOf("1970-01-02"), 86_400_000);
  assert.equal(timeOf("1970-01-01 00:00:01.5"), 1500);
  assert.equal(timeOf("1970-01-01 00:00:01+00"), 1000);
  assert.equal(new Date(timeOf("0044-03-15 BC") ?? 0).toISOString(), "-000043-03-15T00:00:00.000Z");
  assert.equal(new Date(timeOf("0050-01-01") ?? 0).getUTCFullYear(), 50);
  assert.equal(new Date(timeOf("12026-01-01") ?? 0).getUTCFullYear(), 12026);
  assert.equal(timeOf("294276-12-31 23:59:59.999999"), null);
  for (const text of ["infinity", "-infinity", "", "7", "2026-13-45x"]) assert.equal(timeOf(text), null);
});

test("the ticks of times are full hours, days, months or years", () => {
  const ticks = (low: string, high: string, count: number) =>
    labels(timeTicks(timeOf(low) ?? 0, timeOf(high) ?? 0, count));
  assert.deepEqual(ticks("2026-03-01 22:00", "2026-03-02 04:00", 6), [
    "22:00",
    "23:00",
    "2 Mar",
    "01:00",
    "02:00",
    "03:00",
    "04:00",
  ]);
  assert.deepEqual(ticks("2026-03-01", "2026-03-31", 5), ["2 Mar", "9 Mar", "16 Mar", "23 Mar", "30 Mar"]);
  assert.deepEqual(ticks("2025-11-15", "2026-03-20", 6), ["Dec", "2026", "Feb", "Mar"]);
  assert.deepEqual(ticks("2010-06-01", "2026-06-01", 4), ["2010", "2015", "2020", "2025"].slice(1));
  assert.deepEqual(ticks("0010-01-01 BC", "0010-01-01", 4), ["6 BC", "1 BC", "5", "10"]);
  assert.ok(ticks("4713-01-01 BC", "9999-01-01", 8).length <= 100);
});

const HEADS = [
  { name: "week", type: "date" },
  { name: "gym", type: "text" },
  { name: "id", type: "int4" },
  { name: "visits", type: "int8" },
  { name: "tags", type: "int4[]" },
];

test("the first chart has a time or a name on its axis, and a number that is no key", () => {
  assert.deepEqual(firstSpec(HEADS, 10), { kind: "bar", x: "week", y: ["visits"], series: null });
  assert.equal(firstSpec(HEADS, 100)?.kind, "line");
  assert.deepEqual(firstSpec(HEADS.slice(1, 3), 9), { kind: "bar", x: "gym", y: ["id"], series: null });
  assert.equal(firstSpec(HEADS.slice(0, 2), 9), null);
  assert.equal(firstSpec([], 0), null);
  assert.deepEqual(columnChoices(HEADS).y, ["id", "visits"]);
  assert.deepEqual(columnChoices(HEADS).series, ["gym", "tags"]);
});

test("a chart whose columns the result lacks says so", () => {
  assert.equal(misfit({ kind: "bar", x: "week", y: ["visits"], series: null }, HEADS), null);
  assert.match(misfit({ kind: "bar", x: "month", y: ["visits"], series: null }, HEADS) ?? "", /no column named month/);
  assert.match(misfit({ kind: "bar", x: "week", y: ["gym"], series: null }, HEADS) ?? "", /not a column of numbers/);
});

test("NULL is a gap, times are in order, and infinity has no place", () => {
  const rows = [
    ["2026-03-09", "a", "1", "-7", null],
    ["infinity", "a", "1", "7", null],
    ["2026-03-02", "b", "2", null, null],
    [null, "b", "2", "7", null],
  ];
  const data = arrange({ kind: "line", x: "week", y: ["visits", "id"], series: null }, HEADS, rows);
  assert.deepEqual(
    data.places.map(({ label }) => label),
    ["2026-03-02", "2026-03-09"],
  );
  assert.deepEqual(
    data.series.map(({ values }) => values.map((value) => value?.number)),
    [
      [undefined, -7],
      [2, 1],
    ],
  );
  assert.deepEqual(data.notes, ["2 rows without a place on the axis."]);
});

test("the values of a series column become series, with gaps where a place has none", () => {
  const rows = [
    ["2026-03-02", "Norte", "1", "5", null],
    ["2026-03-02", "Centro", "1", "6", null],
    ["2026-03-09", "Centro", "1", "9007199254740993", null],
  ];
  const data = arrange({ kind: "bar", x: "week", y: ["visits"], series: "gym" }, HEADS, rows);
  assert.deepEqual(
    data.series.map(({ name }) => name),
    ["Norte", "Centro"],
  );
  assert.equal(data.series[0]?.values[1], null);
  assert.equal(data.series[1]?.values[1]?.text, "9007199254740993");
});

test("a chart leaves out bars and series beyond its limit, and says how many there are", () => {
  const rows = Array.from({ length: 1000 }, (_, index) => [null, `g${index}`, "1", String(index), null]);
  const bars = arrange({ kind: "bar", x: "gym", y: ["visits"], series: null }, HEADS, rows);
  assert.equal(bars.places.length, MOST_BARS);
  assert.deepEqual(bars.notes, ["The first 300 of 1,000 bars."]);
  const series = arrange({ kind: "bar", x: "id", y: ["visits"], series: "gym" }, HEADS, rows);
  assert.equal(series.series.length, 8);
  assert.deepEqual(series.notes, ["The first 8 of 1000 series."]);
});

test("a label is short, and shows what reorders or hides text", () => {
  assert.equal(labelOf("a\u202eb\n"), "aRLOb↵");
  assert.equal([...labelOf("😀".repeat(100))].length, 60);
  assert.equal(labelOf("x".repeat(1_000_000)).length, 60);
});

test("the chart of a statement is in the comments above it, and in no other", () => {
  const text = "-- chart: bar x=a y=b\nSELECT 1;\n\n-- second\n\n  -- chart: line x=c y=d\nSELECT 2;";
  const second = { text: "SELECT 2;", from: text.indexOf("SELECT 2") };
  assert.equal(withComments(text, second)?.text, "\n-- second\n\n  -- chart: line x=c y=d\nSELECT 2;");
  assert.equal(withComments(text, { text: "SELECT 2;", from: 3 })?.from, text.indexOf("\n\n-- second") + 1);
  assert.equal(withComments("SELECT 1; SELECT 2", { text: "SELECT 2", from: 10 })?.text, "SELECT 2");
  assert.equal(withComments(text, { text: "SELECT 3", from: 0 }), null);
  let now = text;
  const replace = (from: number, to: number, part: string): void => {
    now = now.slice(0, from) + part + now.slice(to);
  };
  const store = chartStore({ text: () => now, replace }, second);
  assert.equal(store.read()?.x, "c");
  store.write({ kind: "bar", x: "e", y: ["f"], series: null });
  store.write({ kind: "bar", x: "g", y: ["h"], series: null });
  assert.equal(now, text.replace("  -- chart: line x=c y=d", "-- chart: bar x=g y=h"));
  store.write(null);
  assert.equal(now, text.replace("  -- chart: line x=c y=d\n", ""));
});
