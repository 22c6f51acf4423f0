// A plan as a tree that can be read: what each step does, what it cost by itself, and where the guess was wrong.

import { type Child, h, number, plural } from "./dom.ts";

type Node_ = Record<string, unknown> & { "Node Type": string; Plans?: Node_[] };
export type Plan = { Plan: Node_; "Planning Time"?: number; "Execution Time"?: number } | Plan[];

const num = (node: Node_, name: string): number => Number(node[name] ?? 0);

/** The time or the cost of a step and all below it, over all its loops. */
function totalOf(node: Node_, measured: boolean): number {
  return measured ? num(node, "Actual Total Time") * Math.max(1, num(node, "Actual Loops")) : num(node, "Total Cost");
}

const DETAILS = [
  "Index Cond",
  "Recheck Cond",
  "Hash Cond",
  "Merge Cond",
  "Join Filter",
  "Filter",
  "Sort Key",
  "Group Key",
  "Sort Method",
  "Rows Removed by Filter",
  "Rows Removed by Join Filter",
  "Heap Fetches",
  "Workers Launched",
];

function called(node: Node_): Child {
  const relation = node["Relation Name"] as string | undefined;
  const alias = node.Alias as string | undefined;
  const index = node["Index Name"] as string | undefined;
  const join = node["Join Type"] as string | undefined;
  return [
    h("strong", join && join !== "Inner" ? `${node["Node Type"]} (${join.toLowerCase()})` : node["Node Type"]),
    relation && h("span", ` on ${relation}${alias && alias !== relation ? ` as ${alias}` : ""}`),
    index && h("span.muted", ` by ${index}`),
  ];
}

export function planTable(answer: Plan, measured: boolean): HTMLElement {
  const plan = Array.isArray(answer) ? answer[0] : answer;
  if (!plan || Array.isArray(plan)) return h("p", "There is no plan.");
  const whole = Math.max(totalOf(plan.Plan, measured), 1e-9);
  const rows: HTMLElement[] = [];
  const walk = (node: Node_, depth: number): void => {
    const below = (node.Plans ?? []).reduce((sum, child) => sum + totalOf(child, measured), 0);
    const own = Math.max(0, totalOf(node, measured) - below);
    const share = Math.min(1, own / whole);
    const bar = h("span.bar-of", { "aria-hidden": "true", class: share > 0.4 ? "bar-of hot" : "bar-of" });
    bar.style.width = `${Math.max(1, share * 100)}%`;
    const expected = num(node, "Plan Rows");
    const actual = num(node, "Actual Rows");
    const off = measured && Math.max(expected, 1) / Math.max(actual, 1);
    const wrongBy = off ? Math.max(off, 1 / off) : 1;
    const step = h(
      "td.step",
      h("div", called(node)),
      DETAILS.filter((name) => node[name] !== undefined && node[name] !== 0).map((name) =>
        h(
          "div.muted.detail",
          `${name}: ${Array.isArray(node[name]) ? (node[name] as string[]).join(", ") : node[name]}`,
        ),
      ),
    );
    step.style.paddingInlineStart = `${8 + depth * 18}px`;
    const first = h("span.sr", `Level ${depth + 1}: `);
    step.prepend(first);
    rows.push(
      h(
        "tr",
        step,
        h("td.right", measured ? `${own.toFixed(own < 10 ? 2 : 0)} ms` : own.toFixed(1)),
        h("td.wide", bar),
        measured && h("td.right", number(Math.round(actual * Math.max(1, num(node, "Actual Loops"))))),
        h(
          "td.right",
          number(expected * (measured ? Math.max(1, num(node, "Actual Loops")) : 1)),
          wrongBy >= 10
            ? h(
                "span.wrong",
                { title: "The planner's guess was off by this factor" },
                ` ×${number(Math.round(wrongBy))} off`,
              )
            : "",
        ),
        measured && h("td.right", number(num(node, "Actual Loops"))),
        measured &&
          h(
            "td.right.muted",
            "Shared Hit Blocks" in node
              ? plural(num(node, "Shared Hit Blocks") + num(node, "Shared Read Blocks"), "page")
              : "",
          ),
      ),
    );
    for (const child of node.Plans ?? []) walk(child, depth + 1);
  };
  walk(plan.Plan, 0);
  const heads = measured
    ? ["Step", "Own time", "", "Rows", "Expected", "Loops", "Read"]
    : ["Step", "Own cost", "", "Expected rows"];
  return h(
    "div.plan.scroll",
    { tabindex: 0, role: "region", "aria-label": "Plan" },
    plan["Execution Time"] !== undefined &&
      h("p", `Planned in ${plan["Planning Time"]} ms, executed in ${plan["Execution Time"]} ms.`),
    h(
      "table.list",
      h(
        "thead",
        h(
          "tr",
          heads.map((text) =>
            text
              ? h("th", { scope: "col", class: text === "Step" ? "" : "right" }, text)
              : h("th.wide", { scope: "col" }, h("span.sr", "Share")),
          ),
        ),
      ),
      h("tbody", rows),
    ),
  );
}
