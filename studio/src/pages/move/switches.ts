// The last switches: the steps of the newest as they happen, and how each of them ended.

import { type Child, h } from "../../dom.ts";
import { problemBox, timestamp } from "../../parts.ts";

type Step = { name: string; text: string; stops_writers: boolean; seconds: number | null };
export type Switch = {
  id: string;
  began_at: string;
  home: "source" | "target";
  tables: string[];
  runs: boolean;
  ended_at: string | null;
  steps: Step[];
  report: { pause_seconds: number; slot: string | null; no_slot_because: string | null; left: string[] } | null;
  problem: { what: string; means: string; fix: string } | null;
};

export const switchPart = (found: Switch): HTMLElement =>
  h(
    "section.card.switch",
    { "aria-label": "Last switch" },
    h("h2", title(found)),
    h(
      "p",
      { role: "status" },
      found.runs && h("span.live", "It runs. "),
      `Began ${timestamp(found.began_at)}. `,
      end(found),
    ),
    h("ol.steps", steps(found)),
    found.steps.some(({ stops_writers }) => stops_writers) &&
      h("p.muted", "Writers wait during the steps with a line at their left."),
    found.problem && problemBox(found.problem),
    notes(found),
  );

const switchLine = (found: Switch): HTMLElement =>
  h("li", `${timestamp(found.began_at)} · ${title(found)} · ${end(found)}`);

const title = ({ home, tables }: Switch): string =>
  `${home === "target" ? "Switch" : "Way back"} of ${tables.join(", ") || "all tables"} to the ${home}`;

function end({ runs, home, report, problem }: Switch): string {
  if (report) return `Done: the home is the ${home}; writers waited for ${report.pause_seconds.toFixed(2)} s.`;
  if (problem) return "It failed.";
  return runs ? "" : "Its process ended in the middle.";
}

function steps({ steps: all, runs }: Switch): HTMLElement[] {
  const begun = all.filter(({ seconds }) => seconds !== null).length;
  return all.map(({ text, seconds, stops_writers }, index) => {
    const next = all[index + 1]?.seconds ?? null;
    const isLast = index === begun - 1;
    const took = seconds !== null && next !== null ? `${(next - seconds).toFixed(2)} s` : isLast && runs ? "…" : "";
    const kind = seconds === null ? "later" : isLast && runs ? "now" : "";
    return h(
      "li",
      { class: `${kind} ${stops_writers ? "pause" : ""}`.trim(), "aria-current": kind === "now" ? "step" : null },
      h("span", text),
      h("span.took", took),
    );
  });
}

const notes = ({ report }: Switch): Child =>
  report && [
    report.slot &&
      h(
        "p.muted",
        "The slot ",
        h("code", report.slot),
        " holds what is written since, for the way back, and WAL with it.",
      ),
    report.no_slot_because && h("p.muted", `The way back compares whole tables, because ${report.no_slot_because}.`),
    report.left.map((left) =>
      h("p.muted", `Left behind: ${left}. `, h("code", "tatame-db move finish"), " removes it."),
    ),
  ];

export const earlierSwitches = (found: Switch[]): Child =>
  found.length > 0 && h("details", h("summary", "Earlier switches"), h("ul.plain", found.map(switchLine)));
