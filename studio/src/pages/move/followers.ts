// The followers: whether one runs, and how far it is behind, as a line over time.

import { bytes, h, plural, s } from "../../dom.ts";
import { timestamp } from "../../parts.ts";
import { type LagPoint, linePath, type Reading, secondsOf, walOf } from "./line.ts";

export type Follower = {
  home: "source" | "target";
  runs: boolean;
  rows: number | null;
  seconds: number;
  wal_bytes: number | null;
  reason: string | null;
  at: string | null;
  interval_seconds: number;
  until: number;
  points: LagPoint[];
};

const WIDTH = 600;
const HEIGHT = 56;
const COMMANDS = { source: "tatame-db move follow", target: "tatame-db move follow --back" };

export const followerPart = (follower: Follower): HTMLElement =>
  h(
    "section.card.follower",
    { "aria-label": `Follower of the ${follower.home}` },
    h("h2", follower.home === "source" ? "The target follows the source" : "The source follows the target"),
    state(follower),
    follower.reason &&
      h("p.wrong", `There is no slot: ${follower.reason}. Whole tables are compared again and again instead.`),
    follower.points.length > 0 &&
      h(
        "div.lines",
        line("Seconds behind", follower, secondsOf(follower.points), (value) => `${seconds(value)} s`),
        line("WAL held by the slot", follower, walOf(follower.points), bytes),
      ),
  );

function state(follower: Follower): HTMLElement {
  const { runs, home, at } = follower;
  if (!runs)
    return h(
      "p",
      `No follow runs. The last batch, at ${timestamp(at)}, left it ${behind(follower)}. `,
      h("code", COMMANDS[home]),
      " carries on.",
    );
  if (at === null) return h("p", h("span.live", "It runs: "), "the first comparison has not ended yet.");
  return h("p", h("span.live", "It runs: "), `${behind(follower)}. Last change: ${timestamp(at)}.`);
}

/** Write how far a follower is behind: `0 rows and 0.0 s behind`. */
export const behind = ({ rows, seconds: late }: Pick<Follower, "rows" | "seconds">): string =>
  `${rows === null ? "" : `${plural(rows, "row")} and `}${seconds(late)} s behind`;

const seconds = (value: number): string => value.toFixed(1);

function line(
  title: string,
  { until, interval_seconds: interval, runs }: Follower,
  readings: Reading[],
  write: (value: number) => string,
): HTMLElement | null {
  const last = readings.at(-1);
  if (!last) return null;
  const from = readings[0]?.at ?? until;
  const top = Math.max(...readings.map(({ highest }) => highest));
  const path = linePath(readings, { from, until, interval, top, width: WIDTH, height: HEIGHT });
  const span = `${clock(from)} to ${clock(until)} UTC`;
  const values = `${write(last.last)} ${runs ? "now" : "at the end"}, ${write(top)} at most`;
  return h(
    "figure",
    h("figcaption", h("strong", title), ` ${values}`),
    s(
      "svg",
      {
        viewBox: `0 -2 ${WIDTH} ${HEIGHT + 4}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `${title}, ${span}: ${values}`,
      },
      s("path", { d: path, class: "line" }),
    ),
    h("div.span", { "aria-hidden": "true" }, h("span", clock(from)), h("span", `${clock(until)} UTC`)),
  );
}

const clock = (moment: number): string => new Date(moment * 1000).toISOString().slice(11, 19);
