// Small parts that several pages show: problems, headings, facts, times.

import { asRefused, type Problem } from "./api.ts";
import { h, replace } from "./dom.ts";

/** Run `draw`, and show in `body` why the studio refused, where it did. */
export async function showing(body: Element, draw: () => Promise<void>): Promise<void> {
  try {
    await draw();
  } catch (error) {
    replace(body, problemBox(asRefused(error).problem));
  }
}

export const problemBox = ({ what, means, fix }: Problem): HTMLElement =>
  h("div.problem", { role: "alert" }, h("strong", what), h("p", means ?? ""), h("p", fix ?? ""));

/** A moment to the second, as `2026-03-01 18:30:00 UTC`. */
export const timestamp = (moment: string | null): string =>
  moment === null ? "none seen" : moment.replace(/\.\d+/, "").replace("T", " ").replace("+00:00", " UTC");

export const columnHeading = (text: string, kind = ""): HTMLElement => h("th", { scope: "col", class: kind }, text);

/** The heading of a column of bars, which only a screen reader needs. */
export const barHeading = (text: string): HTMLElement => h("th.wide", { scope: "col" }, h("span.sr", text));

/** A bar as long as a share of its column, from 0 to 1. */
export function bar(share: number, kind = ""): HTMLElement {
  const element = h("span", { class: `bar-of ${kind}`.trim(), "aria-hidden": "true" });
  element.style.width = `${Math.max(1, share * 100)}%`;
  return element;
}
