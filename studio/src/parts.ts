// Parts that several pages share: problems, headings, bars and times.

import { asRefused, type Problem } from "./api.ts";
import { h, replace } from "./dom.ts";

/** Run `draw`; if the server rejects its request, show the reason in `body`. */
export async function showing(body: Element, draw: () => Promise<void>): Promise<void> {
  try {
    await draw();
  } catch (error) {
    replace(body, problemBox(asRefused(error).problem));
  }
}

export const problemBox = ({ what, means, fix }: Problem): HTMLElement =>
  h("div.problem", { role: "alert" }, h("strong", what), h("p", means ?? ""), h("p", fix ?? ""));

/** Format a timestamp to the second: `2026-03-01 18:30:00 UTC`. */
export const timestamp = (moment: string | null): string =>
  moment === null ? "none recorded" : moment.replace(/\.\d+/, "").replace("T", " ").replace("+00:00", " UTC");

export const columnHeading = (text: string, kind = ""): HTMLElement => h("th", { scope: "col", class: kind }, text);

/** The heading of a column of bars, visible to screen readers only. */
export const barHeading = (text: string): HTMLElement => h("th.wide", { scope: "col" }, h("span.sr", text));

/** A bar that fills a share of its column, from 0 to 1. */
export function bar(share: number, kind = ""): HTMLElement {
  const element = h("span", { class: `bar-of ${kind}`.trim(), "aria-hidden": "true" });
  element.style.width = `${Math.max(1, share * 100)}%`;
  return element;
}
