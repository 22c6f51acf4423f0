// What became of the rows of an import: their numbers, and the reason for each that does not fit.

import { h, number, plural } from "../../../dom.ts";
import { encodingName } from "./options.ts";

export type Outcome = {
  rows: number;
  inserted: number;
  updated: number;
  skipped: number;
  bad: { line: number; column: string | null; what: string }[];
  /** True if the rest of the file was not read, because too many rows do not fit. */
  stopped: boolean;
  /** Keys of JSON objects that go nowhere. */
  unknown: string[];
  /** A sentence on a sequence that is behind the imported numbers. */
  sequence: string | null;
  committed: boolean;
  encoding: string;
};

export function drawOutcome(outcome: Outcome, mode: "check" | "run"): HTMLElement {
  const { bad, unknown, sequence, committed, encoding } = outcome;
  return h(
    "div.outcome",
    h("p", h("strong", headline(outcome, mode))),
    h("p.muted", `Read as ${encodingName(encoding)}.`, unknown.length > 0 && ` Not imported: ${unknown.join(", ")}.`),
    committed && sequence !== null && h("p.wrong", sequence),
    bad.length > 0 && drawBad(bad),
  );
}

function headline(outcome: Outcome, mode: "check" | "run"): string {
  const { rows, bad, stopped, committed } = outcome;
  const fitting = details(outcome);
  if (stopped) return `${plural(bad.length, "row")} of the first ${number(rows)} do not fit. Nothing was imported.`;
  if (committed) return `Imported ${plural(outcome.inserted + outcome.updated, "row")}${fitting}.`;
  const left = bad.length ? `, ${number(bad.length)} ${bad.length === 1 ? "does" : "do"} not` : "";
  const tense = mode === "check" ? "Nothing is imported yet." : "Nothing was imported.";
  return `${plural(rows - bad.length, "row")} ${rows - bad.length === 1 ? "fits" : "fit"}${left}${fitting}. ${tense}`;
}

function details({ inserted, updated, skipped }: Outcome): string {
  if (!updated && !skipped) return "";
  return ` (${number(inserted)} new, ${number(updated)} updated, ${number(skipped)} left as they are)`;
}

const drawBad = (bad: Outcome["bad"]): HTMLElement =>
  h(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": "Rows that do not fit" },
    h(
      "table.pasted",
      h(
        "thead",
        h(
          "tr",
          ["Line", "Column", "Reason"].map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
      h(
        "tbody",
        bad.map(({ line, column, what }) =>
          h("tr", h("th", { scope: "row" }, number(line)), h("td", column), h("td", what)),
        ),
      ),
    ),
  );
