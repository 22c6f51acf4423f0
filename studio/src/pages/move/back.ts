// The way back: a check, on request, of what it would name.

import { asRefused, get } from "../../api.ts";
import { button, type Child, h, plural, replace } from "../../dom.ts";
import { marked, problemBox } from "../../parts.ts";
import type { Home } from "./table.ts";

type Obstacle = { table: string; reason: string; rows: number; ids: string[]; choices: string[] };
type Checked = { homes: Record<string, Home>; tables: string[]; obstacles: Obstacle[]; tried: boolean };

const CHECK = "Check the way back";

/** The part of the page; `learn` is called with the homes as both databases have them. */
export function backPart(learn: (homes: Record<string, Home>) => void): HTMLElement {
  const result = h("div", { role: "status" });
  const check = async (): Promise<void> => {
    start.disabled = true;
    start.textContent = "Checking…";
    replace(result);
    try {
      const checked = await get<Checked>("/api/move/back");
      replace(result, outcome(checked));
      learn(checked.homes);
    } catch (error) {
      replace(result, problemBox(asRefused(error).problem));
    }
    start.disabled = false;
    start.textContent = CHECK;
  };
  const start = button(CHECK, () => void check());
  return h(
    "section.card.back",
    { "aria-label": "Way back" },
    h("h2", "The way back"),
    h(
      "div.row",
      start,
      h(
        "span.muted",
        "Compares the rows of both databases, and names what the source cannot hold. Changes neither. Needs ",
        h("code", "SUPABASE_DB_URL"),
        ", which the studio reads when it starts.",
      ),
    ),
    result,
  );
}

function outcome({ tables, obstacles, tried }: Checked): Child {
  if (!tables.length) return h("p", "No table has moved: there is nothing to bring back.");
  return [
    obstacles.length
      ? h("ul.plain", obstacles.map(obstacleLine))
      : h("p", `The source can hold every row of ${plural(tables.length, "table")}.`),
    !tried &&
      h(
        "p.muted",
        "Constraints and triggers of the source were not tried, because that writes there for a moment: ",
        h("code", "tatame-db move back --dry-run"),
        " does.",
      ),
  ];
}

const obstacleLine = ({ table, reason, rows, ids, choices }: Obstacle): HTMLElement =>
  h(
    "li",
    h("strong", table),
    h("span.wrong", ` ${reason}`),
    ` (${plural(rows, "row")}${ids.length ? `, for example with the id ${ids.join(", ")}` : ""})`,
    h(
      "ul.plain.choices",
      choices.map((choice) => h("li.muted", marked(choice))),
    ),
  );
