// Small parts that several pages show: problems and times.

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
