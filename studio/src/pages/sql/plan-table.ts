// An EXPLAIN plan as a table in which child steps are indented.

import { h, number, plural } from "../../dom.ts";
import { bar, barHeading, columnHeading } from "../../parts.ts";
import { detailsOf, nameOf, type Plan, type Step, stepsOf } from "./plan.ts";

/** A step with a larger share of the whole plan is highlighted as slow. */
const SLOW_SHARE = 0.4;
/** An estimate that is off by this factor or more is highlighted. */
const WRONG_FACTOR = 10;
const INDENT_PX = 18;

export function planTable(answer: Plan, measured: boolean): HTMLElement {
  const plan = Array.isArray(answer) ? answer[0] : answer;
  if (!plan || Array.isArray(plan)) return h("p", "The server returned no plan.");
  const times = `Planned in ${plan["Planning Time"]} ms, executed in ${plan["Execution Time"]} ms.`;
  const headings = measured ? ["Own time", "Rows", "Estimated", "Loops", "Read"] : ["Own cost", "Estimated rows"];
  const [own = "", ...rest] = headings.map((text) => columnHeading(text, "right"));
  return h(
    "div.plan.scroll",
    { tabindex: 0, role: "region", "aria-label": "Plan" },
    plan["Execution Time"] !== undefined && h("p", times),
    h(
      "table.list",
      h("thead", h("tr", columnHeading("Step"), own, barHeading("Share"), rest)),
      h(
        "tbody",
        stepsOf(plan.Plan, measured).map((step) => planRow(step, measured)),
      ),
    ),
  );
}

function planRow(step: Step, measured: boolean): HTMLElement {
  const { own, share, actual, loops, pages } = step;
  const cells = measured
    ? [
        h("td.right", number(actual)),
        expectedCell(step),
        h("td.right", number(loops)),
        h("td.right.muted", pages === undefined ? "" : plural(pages, "page")),
      ]
    : [expectedCell(step)];
  return h(
    "tr",
    stepCell(step),
    h("td.right", measured ? `${own.toFixed(own < 10 ? 2 : 0)} ms` : own.toFixed(1)),
    h("td.wide", bar(share, share > SLOW_SHARE ? "hot" : "")),
    cells,
  );
}

const expectedCell = ({ expected, error }: Step): HTMLElement =>
  h(
    "td.right",
    number(expected),
    error >= WRONG_FACTOR &&
      h("span.wrong", { title: "The planner's estimate is off by this factor" }, ` ×${number(Math.round(error))} off`),
  );

function stepCell({ node, depth }: Step): HTMLElement {
  const { kind, target, index } = nameOf(node);
  const cell = h(
    "td.step",
    h("span.sr", `Level ${depth + 1}: `),
    h("div", h("strong", kind), target && h("span", target), index !== undefined && h("span.muted", ` by ${index}`)),
    detailsOf(node).map((detail) => h("div.muted.detail", detail)),
  );
  cell.style.paddingInlineStart = `${8 + depth * INDENT_PX}px`;
  return cell;
}
