// The response to a run of statements: lines of JSON that arrive one after another.

import type { Cell } from "../../api.ts";
import { plural } from "../../dom.ts";
import type { Plan } from "./plan.ts";

export type ColumnHead = { name: string; type: string };
export type Notice = { severity: string; what: string; detail?: string | null; hint?: string | null };
export type SqlProblem = {
  what: string;
  means?: string | null;
  fix?: string | null;
  code?: string | null;
  detail?: string | null;
  hint?: string | null;
  /** Where in a function the error happened. */
  context?: string | null;
  /** The character of the statement at which PostgreSQL reports the error, counted from 1. */
  position?: number | null;
  notices?: Notice[];
};
export type Done = { rows: number; more?: boolean; ms: number; command?: string | null; notices?: Notice[] };
/** A statement in the text that was sent: its first and its last character, counted from 0. */
export type Place = { index: number; of: number; start: number; end: number; text: string };
/** The effects of a statement that is not committed yet. */
export type Question = { lines: string[]; notices: Notice[]; seconds: number; command: string; most_unasked: number };
export type Notification = { channel: string; payload: string; pid: number };
export type SessionState = {
  transaction: "none" | "open" | "failed";
  open: boolean;
  /** Why the session has ended. */
  ended: string | null;
  lost_transaction: boolean;
  notifications: Notification[];
};
export type Line = {
  statement?: Place;
  columns?: ColumnHead[];
  rows?: Cell[][];
  plan?: Plan;
  question?: Question;
  done?: Done;
  error?: SqlProblem;
  undone?: { in_time: boolean };
  session?: SessionState;
};
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

/** Convert a number of characters to an offset in UTF-16 code units. */
export function offsetOf(text: string, characters: number): number {
  let offset = 0;
  for (let count = 0; count < characters && offset < text.length; count++)
    offset += (text.codePointAt(offset) ?? 0) > 0xffff ? 2 : 1;
  return offset;
}

/** Return the number of characters before an offset in UTF-16 code units. */
export const charactersBefore = (text: string, offset: number): number => {
  let characters = 0;
  for (let at = 0; at < offset; characters++) at += (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1;
  return characters;
};

/** Summarize a finished statement. */
export function describeDone({ rows, ms, more, command }: Done, how: How): string {
  if (how !== "rows") return `explained in ${ms.toFixed(1)} ms`;
  const time = `in ${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  // A statement without rows of its own has only its name, and the number of rows that it changed.
  if (rows === 0 && command && !/^(SELECT|FETCH|SHOW)/.test(command)) return `${command} ${time}`;
  const tag = command && !command.startsWith("SELECT") ? `${command} · ` : "";
  return `${tag}${plural(rows, "row")} ${time}${more ? "; more are available" : ""}`;
}

/** Summarize a run of several statements. */
export const describeRun = (of: number, ms: number): string =>
  `${plural(of, "statement")} in ${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
