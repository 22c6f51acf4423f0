// Scales: the ticks of an axis of numbers or of times, and the times that PostgreSQL writes.

export type Tick = { at: number; label: string };

// --- Numbers --------------------------------------------------------------------------------------------------------

/** Return ticks at multiples of 1, 2 or 5 times a power of ten that enclose the range, `count` of them or somewhat fewer. */
export function numberTicks(low: number, high: number, count: number): Tick[] {
  const [from, to] = low < high ? [low, high] : low === 0 ? [0, 1] : [Math.min(0, low), Math.max(0, low)];
  const step = niceStep((to - from) / Math.max(1, count));
  // A range that is wider than all numbers, or narrower than their digits, has two ticks.
  if (!Number.isFinite(step) || from + step === from)
    return [from, to].map((at) => ({ at, label: numberLabel(at, 0) }));
  const ticks: Tick[] = [];
  for (let index = Math.floor(from / step); ticks.length < 100; index++) {
    const at = index * step;
    ticks.push({ at, label: numberLabel(at, step) });
    if (at >= to) break;
  }
  return ticks;
}

function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((one) => one * power >= rough * (1 - 1e-9)) ?? 10;
  return factor * power;
}

function numberLabel(value: number, step: number): string {
  const size = Math.max(Math.abs(value), step);
  if (value !== 0 && (size >= 1e15 || size < 1e-6)) return value.toExponential(1).replace("e+", "e");
  if (size >= 1e6) return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 2 });
  const digits = step > 0 ? Math.max(0, Math.min(9, -Math.floor(Math.log10(step) + 1e-9))) : 2;
  return (value === 0 ? 0 : value).toLocaleString("en", { maximumFractionDigits: digits });
}

// --- Times ----------------------------------------------------------------------------------------------------------

const TIME =
  /^(\d{4,6})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?(?:[+-]\d\d(?::?\d\d)?)?( BC)?$/;

/** Return the milliseconds of a date or timestamp as PostgreSQL writes it, as if in UTC; null for any other text. */
export function timeOf(text: string): number | null {
  const found = TIME.exec(text);
  if (!found) return null;
  const part = (index: number): number => Number(found[index] ?? 0);
  const date = new Date(0);
  // Not `Date.UTC`, which takes the year 50 for 1950.
  date.setUTCFullYear(found[8] ? 1 - part(1) : part(1), part(2) - 1, part(3));
  date.setUTCHours(part(4), part(5), part(6), Number((found[7] ?? "").padEnd(3, "0").slice(0, 3)));
  return Number.isNaN(date.getTime()) ? null : date.getTime();
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const CLOCK_STEPS = [1, 5, 15, 30].flatMap((many) => [many * SECOND, many * MINUTE]);
const STEPS = [...CLOCK_STEPS, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY].sort(
  (one, other) => one - other,
);
const MONTHS = [1, 3, 6];
/** A Monday, at which weeks start. */
const MONDAY = 4 * DAY;

/** Return ticks at full seconds, hours, days, weeks, months or years inside the range, at most `count` of them. */
export function timeTicks(low: number, high: number, count: number): Tick[] {
  const rough = (high - low) / Math.max(1, count);
  const step = STEPS.find((one) => one >= rough);
  if (step !== undefined) return evenTicks(low, high, step);
  const months = MONTHS.find((many) => many * 30 * DAY >= rough) ?? 12 * niceYears(rough / (365 * DAY));
  return monthTicks(low, high, months);
}

const niceYears = (rough: number): number => Math.max(1, niceStep(Math.max(1, rough)));

function evenTicks(low: number, high: number, step: number): Tick[] {
  const start = step === 7 * DAY ? MONDAY : 0;
  const ticks: Tick[] = [];
  for (let at = start + Math.ceil((low - start) / step) * step; at <= high; at += step)
    ticks.push({ at, label: step < DAY && at % DAY !== 0 ? clock(at, step) : dayLabel(at) });
  return ticks;
}

function monthTicks(low: number, high: number, months: number): Tick[] {
  const first = new Date(low);
  const ticks: Tick[] = [];
  const start = Math.ceil((first.getUTCFullYear() * 12 + first.getUTCMonth()) / months) * months;
  for (let month = start; ticks.length < 100; month += months) {
    const date = new Date(0);
    date.setUTCFullYear(Math.floor(month / 12), ((month % 12) + 12) % 12, 1);
    const at = date.getTime();
    if (!(at <= high)) break;
    if (at >= low) ticks.push({ at, label: months < 12 ? monthLabel(date) : yearLabel(date) });
  }
  return ticks;
}

const MONTH_NAMES = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const nameOfMonth = (date: Date): string => MONTH_NAMES[date.getUTCMonth()] ?? "";

function clock(at: number, step: number): string {
  const text = new Date(at).toISOString().split("T")[1] ?? "";
  return step < MINUTE ? text.slice(0, 8) : text.slice(0, 5);
}

function dayLabel(at: number): string {
  const date = new Date(at);
  return `${date.getUTCDate()} ${nameOfMonth(date)}`;
}

const yearLabel = (date: Date): string => {
  const year = date.getUTCFullYear();
  return year > 0 ? String(year) : `${1 - year} BC`;
};
const monthLabel = (date: Date): string => (date.getUTCMonth() === 0 ? yearLabel(date) : nameOfMonth(date));
