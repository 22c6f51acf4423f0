// An EXPLAIN plan as a list of steps, each with its own time or cost and the error of the planner's estimate.

export type PlanNode = Record<string, unknown> & { "Node Type": string; Plans?: PlanNode[] };
export type Plan = { Plan: PlanNode; "Planning Time"?: number; "Execution Time"?: number } | Plan[];

export type Step = {
  node: PlanNode;
  /** The depth in the tree, from 0. */
  depth: number;
  /** Milliseconds if the plan was measured, otherwise the planner's cost units; without the child steps. */
  own: number;
  /** The share of `own` in the whole plan, from 0 to 1. */
  share: number;
  /** Rows of all loops together. */
  expected: number;
  actual: number;
  loops: number;
  /** The factor between estimated and actual rows, at least 1; always 1 if the plan was not measured. */
  error: number;
  /** Pages read from the cache and from disk; undefined if not measured. */
  pages: number | undefined;
};

const numberIn = (node: PlanNode, name: string): number => Number(node[name] ?? 0);

/** The number of loops, at least 1, because a step reports the numbers of one loop. */
const loopsOf = (node: PlanNode): number => Math.max(1, numberIn(node, "Actual Loops"));

/** The time or the cost of a step and its child steps, for all loops together. */
const totalOf = (node: PlanNode, measured: boolean): number =>
  measured ? numberIn(node, "Actual Total Time") * loopsOf(node) : numberIn(node, "Total Cost");

/** Return the steps of a plan from the top, each followed by its child steps. */
export function stepsOf(root: PlanNode, measured: boolean): Step[] {
  const whole = Math.max(totalOf(root, measured), 1e-9);
  const walk = (node: PlanNode, depth: number): Step[] => {
    const below = node.Plans ?? [];
    return [stepOf(node, depth, measured, whole), ...below.flatMap((child) => walk(child, depth + 1))];
  };
  return walk(root, 0);
}

function stepOf(node: PlanNode, depth: number, measured: boolean, whole: number): Step {
  const below = (node.Plans ?? []).reduce((sum, child) => sum + totalOf(child, measured), 0);
  const own = Math.max(0, totalOf(node, measured) - below);
  const [expected, actual] = [numberIn(node, "Plan Rows"), numberIn(node, "Actual Rows")];
  const ratio = Math.max(expected, 1) / Math.max(actual, 1);
  const loops = measured ? loopsOf(node) : 1;
  return {
    node,
    depth,
    own,
    share: Math.min(1, own / whole),
    expected: expected * loops,
    actual: Math.round(actual * loops),
    loops: numberIn(node, "Actual Loops"),
    error: measured ? Math.max(ratio, 1 / ratio) : 1,
    pages:
      "Shared Hit Blocks" in node
        ? numberIn(node, "Shared Hit Blocks") + numberIn(node, "Shared Read Blocks")
        : undefined,
  };
}

/** Name a step, as `Seq Scan on users as u`: its kind, its target, and the index that it uses. */
export function nameOf(node: PlanNode): { kind: string; target: string; index: string | undefined } {
  const text = (name: string): string | undefined => node[name] as string | undefined;
  const [join, relation, alias] = [text("Join Type"), text("Relation Name"), text("Alias")];
  const kind = node["Node Type"];
  return {
    kind: join && join !== "Inner" ? `${kind} (${join.toLowerCase()})` : kind,
    target: relation ? ` on ${relation}${alias && alias !== relation ? ` as ${alias}` : ""}` : "",
    index: text("Index Name"),
  };
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

/** Return the details to show below a step: conditions, keys, and removed rows. */
export const detailsOf = (node: PlanNode): string[] =>
  DETAILS.filter((name) => node[name] !== undefined && node[name] !== 0).map((name) => {
    const value = node[name];
    return `${name}: ${Array.isArray(value) ? value.join(", ") : value}`;
  });
