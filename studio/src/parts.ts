// Parts that several pages share: problems, headings, bars and times.

import { asRefused, type Problem } from "./api.ts";
import { type Child, h, replace } from "./dom.ts";
import { sentence } from "./text.ts";

/** Run `draw`; if the server rejects its request, show the reason in `body`. */
export async function showing(body: Element, draw: () => Promise<void>): Promise<void> {
  try {
    await draw();
  } catch (error) {
    replace(body, problemBox(asRefused(error).problem));
  }
}

export const problemBox = ({ what, means, fix }: Problem): HTMLElement =>
  h(
    "div.problem",
    { role: "alert" },
    h("strong", marked(what)),
    h("p", marked(means ?? "")),
    h("p", marked(sentence(fix))),
  );

/** Show what stands between backquotes as code. */
export const marked = (text: string): Child =>
  text.split("`").map((part, index) => (index % 2 ? h("code", part) : part));

/** Format a timestamp to the second: `2026-03-01 18:30:00 UTC`. */
export const timestamp = (moment: string | null): string =>
  moment === null
    ? "none recorded"
    : moment
        .replace(/\.\d+/, "")
        .replace("T", " ")
        .replace(/\+00:00$|Z$/, " UTC");

export const columnHeading = (text: string, kind = ""): HTMLElement => h("th", { scope: "col", class: kind }, text);

/** The heading of a column of bars, visible to screen readers only. */
export const barHeading = (text: string): HTMLElement => h("th.wide", { scope: "col" }, h("span.sr", text));

/** A bar that fills a share of its column, from 0 to 1. */
export function bar(share: number, kind = ""): HTMLElement {
  const element = h("span", { class: `bar-of ${kind}`.trim(), "aria-hidden": "true" });
  element.style.width = `${Math.max(1, share * 100)}%`;
  return element;
}

/** A part of an element: its name, what it shows, and the function that draws that. */
export type Part = [name: string, data: unknown, draw: () => HTMLElement];

/** Return the function that shows parts in `parent`. One with the same data stays, with its focus and open details. */
export function redrawing(parent: Element): (parts: Part[]) => void {
  let shown = new Map<string, { data: string; element: HTMLElement }>();
  return (parts) => {
    const next: typeof shown = new Map();
    for (const [name, value, draw] of parts) {
      const data = JSON.stringify(value) ?? "";
      const before = shown.get(name);
      next.set(name, before?.data === data ? before : { data, element: draw() });
    }
    shown = next;
    const elements = [...next.values()].map(({ element }) => element);
    for (const child of [...parent.children]) if (!elements.includes(child as HTMLElement)) child.remove();
    // An element that moves loses its focus.
    elements.forEach((element, index) => {
      if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
    });
  };
}
