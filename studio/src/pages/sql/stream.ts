// The response to a statement: lines of JSON that arrive one after another.

import type { Cell } from "../../api.ts";
import { number } from "../../dom.ts";
import type { Plan } from "./plan.ts";

export type ColumnHead = { name: string; type: string };
export type SqlProblem = {
  what: string;
  means?: string;
  fix?: string;
  code?: string | null;
  hint?: string | null;
  /** The character at which PostgreSQL reports the error, counted from 1. */
  position?: number | null;
};
export type Done = { rows: number; more?: boolean; ms: number; command?: string; notices?: string[] };
export type Line = { columns?: ColumnHead[]; rows?: Cell[][]; plan?: Plan; done?: Done; error?: SqlProblem };
/** Run a statement for its rows, for its plan, or for a plan with measured times. */
export type How = "rows" | "plan" | "analyze";

/** Parse newline-delimited JSON as it arrives. */
export async function* readLines(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<Line> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value = "", done } = await reader.read();
    const parts = (rest + value).split("\n");
    rest = done ? "" : (parts.pop() ?? "");
    for (const part of parts) if (part.trim()) yield JSON.parse(part);
    if (done) return;
  }
}

/** Convert a position in characters, from 1, to an offset in UTF-16 code units, from 0. */
export const offsetOf = (text: string, position: number): number => [...text].slice(0, position - 1).join("").length;

/** Summarize a finished statement. */
export function describeDone({ rows, ms, more, command }: Done, how: How): string {
  if (how !== "rows") return `explained in ${ms.toFixed(1)} ms`;
  const tag = command && !command.startsWith("SELECT") ? `${command} · ` : "";
  return `${tag}${number(rows)} rows in ${ms.toFixed(ms < 10 ? 1 : 0)} ms${more ? "; more are available" : ""}`;
}
