// The frame around every page: the bar, the tables, the banner, the staged changes and the keys.

import { onTrouble, type Problem, type Session, watchHealth } from "./api.ts";
import { review } from "./changes/review.ts";
import { changes, isRejected, onChanges } from "./changes/staged.ts";
import { button, h, plural, replace } from "./dom.ts";
import { drawerButton } from "./drawer.ts";
import type { Finishing } from "./editor.ts";
import { showKeys } from "./help.ts";
import { keyName } from "./keys.ts";
import { showPalette } from "./palette.ts";
import { go, main, markCurrent, type Pages, type Place, pageKey, reload, startRouter } from "./router.ts";
import { session, startSession } from "./session.ts";
import { tableList } from "./tables.ts";
import { sentence } from "./text.ts";
import { onTransactions, openTransactions } from "./transactions.ts";

const banner = h("div.banner", { role: "alert", hidden: true });
const pending = h("div.pending", { role: "region", "aria-label": "Staged changes", hidden: true });

/** Draw the frame and show the page of the current address in it. */
export function start(answer: Session, pages: Pages): void {
  startSession(answer);
  const find = (): void => showPalette(pages.places);
  const list = tableList(markCurrent);
  const below = h("div.below", list, main);
  document.documentElement.dataset.mode = session.mode;
  document.body.append(
    h(
      "a.skip",
      {
        href: "#main",
        onclick: (event: Event) => {
          event.preventDefault();
          main.focus();
        },
      },
      "Skip to content",
    ),
    bar(pages.places, find, drawerButton(list, below, main)),
    banner,
    below,
    pending,
  );
  onTrouble(drawTrouble);
  onChanges(drawPending);
  watchHealth();
  addEventListener("keydown", (event) => onKey(event, pages.places, find));
  addEventListener("beforeunload", (event) => changes.size && event.preventDefault());
  startRouter(pages);
}

function bar(places: Place[], find: () => void, drawer: HTMLElement): HTMLElement {
  const write = session.mode === "write";
  const finder = button("", find, { class: "find", "aria-keyshortcuts": "/", "aria-label": "Find a table or a row" });
  // On a phone there is room for the first word only.
  finder.append(h("span", "Find", h("span.wide", " a table or a row")), h("kbd", { "aria-hidden": true }, "/"));
  return h(
    "header.bar",
    drawer,
    h(
      "a.brand",
      { href: "/", "aria-label": "Tatame studio, overview" },
      h("img", { src: "/static/icon.svg", alt: "", width: 22, height: 22 }),
      h("span", "Tatame"),
    ),
    h(
      "nav.places",
      { "aria-label": "Pages" },
      places.map(({ path, name }, index) =>
        h("a", { href: path, title: `Alt+${index + 1}` }, name, path === "/sql" && openMark()),
      ),
    ),
    finder,
    h(
      "span.where",
      { title: `${session.database} on ${session.server}, as ${session.role}` },
      h("b", session.database),
      h("span", ` as ${session.role}`),
    ),
    h(
      "span.mode",
      { title: write ? "Changes are staged until you save them" : "Start the studio with --write to change data" },
      session.mode,
    ),
    button("?", () => showKeys(places), { "aria-label": "Keyboard shortcuts", class: "quiet" }),
  );
}

/** The mark of open transactions, which hold locks while other pages are shown. */
function openMark(): HTMLElement {
  const mark = h("span.open-transaction", { hidden: true });
  onTransactions(() => {
    const open = openTransactions().length;
    mark.hidden = open === 0;
    mark.title = `Open: ${plural(open, "transaction")}`;
    replace(mark, h("span.sr", `, ${plural(open, "open transaction")}`));
  });
  return mark;
}

function drawTrouble(problem: Problem | null): void {
  const isBack = !banner.hidden && problem === null;
  banner.hidden = problem === null;
  if (problem)
    replace(
      banner,
      h("strong", `${problem.what}.`),
      " ",
      h("span", problem.means ?? ""),
      " ",
      h("span", sentence(problem.fix)),
      " ",
      h("span", "This page reconnects automatically."),
    );
  if (isBack) reload();
}

function drawPending(): void {
  const { size } = changes;
  pending.hidden = size === 0;
  const rejected = [...changes.values()].filter(isRejected).length;
  replace(
    pending,
    h(
      "span",
      h("strong", plural(size, "change")),
      " staged, not saved",
      rejected > 0 && h("span.wrong", `, ${plural(rejected, "row")} rejected`),
    ),
    button("Review and save", () => void review(), { class: "primary", title: "Ctrl+S" }),
  );
}

/** True if the key types text into the focused field. */
const isTyped = ({ target }: KeyboardEvent): boolean =>
  (target as HTMLElement).isContentEditable ||
  (target as HTMLElement).matches("input:not([type=checkbox]), textarea, select");

/** Review the staged changes, with the value of an open editor. One without a value stays open and says why. */
async function finishAndReview(): Promise<void> {
  const open = document.activeElement?.closest(".editor") ?? document.querySelector(".editor:not(.popover .editor)");
  const finishing: Finishing = new CustomEvent("finish", { detail: [] });
  open?.dispatchEvent(finishing);
  if ((await Promise.all(finishing.detail)).every(Boolean)) await review();
}

function onKey(event: KeyboardEvent, places: Place[], find: () => void): void {
  const name = keyName(event);
  const isOpen = document.querySelector("dialog[open]") !== null;
  if (name === "Ctrl+s" && !event.shiftKey) {
    event.preventDefault();
    if (!isOpen) void finishAndReview();
    return;
  }
  if (event.defaultPrevented || isOpen) return;
  const place = places[Number(/^Alt\+([1-9])$/.exec(name)?.[1]) - 1];
  const act = place
    ? () => go(place.path)
    : (pageKey(name) ?? (isTyped(event) ? undefined : { "/": find, "?": () => showKeys(places) }[name]));
  if (!act) return;
  event.preventDefault();
  act();
}
