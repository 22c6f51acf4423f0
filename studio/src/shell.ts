// What surrounds every page: the bar, the tables, the banner, the keys, and the way from page to page.

import { type Session, type Table, onTrouble, rowsPath, watchHealth } from "./api";
import { button, dialog, h, plural, replace } from "./dom";
import { changes, onChanges, review } from "./changes";
import { movePage } from "./pages/move";
import { overviewPage } from "./pages/overview";
import { rowPage } from "./pages/row";
import { rowsPage } from "./pages/rows";
import { schemaPage } from "./pages/schema";
import { sqlPage } from "./pages/sql";

export type Page = {
  title: string;
  element: HTMLElement;
  /** The same page at another address: another filter, another part of the rows. */
  update?: (url: URL) => void;
  /** Read again, after the database was away or something was saved. */
  reload?: () => void;
  leave?: () => void;
  keys?: Record<string, () => void>;
};

export let session: Session;
let current: (Page & { path: string }) | undefined;

export const tableNamed = (name: string): Table | undefined => session.tables.find((table) => table.name === name);

const PLACES: [string, string][] = [["/", "Overview"], ["/sql", "SQL"], ["/schema", "Schema"], ["/move", "Move"]];

function pageAt(url: URL): Page {
  const parts = url.pathname.split("/").slice(1).map(decodeURIComponent);
  const table = parts[0] === "t" && parts[1] ? tableNamed(parts[1]) : undefined;
  if (table && parts[2] !== undefined && parts[2] !== "") return rowPage(table, parts[2]);
  if (table) return rowsPage(table, url);
  switch (url.pathname) {
    case "/": return overviewPage();
    case "/sql": return sqlPage();
    case "/schema": return schemaPage();
    case "/move": return movePage();
  }
  return {
    title: "Not found",
    element: h("section.page", {}, h("h1", {}, "There is no such page"),
      h("p", {}, parts[0] === "t" ? `This database has no table ${parts[1]}. ` : "", "Press / to find a table, or go to the ",
        h("a", { href: "/" }, "overview"), ".")),
  };
}

/** Go to a page of the studio; `instead` leaves no step for Back. */
export function go(to: string, { instead = false } = {}): void {
  if (instead) history.replaceState(null, "", to);
  else if (to !== location.pathname + location.search + location.hash) history.pushState(null, "", to);
  show();
}

export const reload = (): void => current?.reload?.();

const main = h("main", { id: "main", tabindex: -1 });
const tables = h("nav.tables", { "aria-label": "Tables" });
const places = h("nav.places", { "aria-label": "Pages" });
const banner = h("div.banner", { role: "alert", hidden: true });
const pending = h("div.pending", { role: "region", "aria-label": "Staged changes", hidden: true });

function show(): void {
  const url = new URL(location.href);
  document.querySelectorAll<HTMLDialogElement>("dialog[open]").forEach((open) => open.close());
  if (current?.update && current.path === url.pathname) {
    current.update(url);
  } else {
    current?.leave?.();
    const page = pageAt(url);
    current = { ...page, path: url.pathname };
    replace(main, page.element);
    main.scrollTop = 0;
    if (!main.contains(document.activeElement)) main.focus();
  }
  document.title = `${current.title} · Tatame studio`;
  for (const link of document.querySelectorAll<HTMLAnchorElement>("nav.places a, nav.tables a")) {
    const path = new URL(link.href).pathname;
    const here = path === url.pathname || (path !== "/" && url.pathname.startsWith(`${path}/`));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function drawPending(): void {
  const { size } = changes;
  pending.hidden = size === 0;
  const wrong = [...changes.values()].filter((change) => change.error || Object.keys(change.errors).length);
  replace(
    pending,
    h("span", {}, h("strong", {}, plural(size, "change")), " staged, not saved",
      wrong.length ? h("span.wrong", {}, `, ${plural(wrong.length, "row")} refused`) : ""),
    button("Review and save", () => void review(), { class: "primary", title: "Ctrl+S" }),
  );
}

const KEYS: [string, [string, string][]][] = [
  ["Everywhere", [
    ["/", "Find a table, column or page"], ["?", "Show these keys"], ["Ctrl S", "Review the staged changes, again to save"],
    ["Alt 1 – 4", "Overview, SQL, schema, move"], ["Alt ←", "Back"], ["Esc", "Close what is open"],
  ]],
  ["Rows", [
    ["← ↑ → ↓", "Walk"], ["Enter", "Edit the cell; where nothing can be edited, show it whole"],
    ["Space", "Show the value whole"], ["F4", "Follow the reference; on the id, open the row"], ["Ctrl C, Ctrl V", "Copy the whole value, put one in"],
    ["Alt F", "Add a filter"], ["Shift click, Shift Enter", "Sort by one more column"],
    ["Alt PgUp, Alt PgDn", "Page before, page after"], ["Alt Home, Alt End", "First page, last page"],
  ]],
  ["Rows, with write mode", [
    ["Del", "Set to NULL"], ["Shift Enter", "New line while editing"], ["Esc", "Leave the cell as it was"],
    ["Insert", "New row"], ["Ctrl Del", "Delete the row, again to keep it"], ["Ctrl Z", "Take back the last staged change"],
  ]],
  ["SQL", [
    ["Ctrl Enter", "Run the selection, or the statement at the cursor"], ["Ctrl Shift Enter", "Explain it"],
    ["Ctrl Space", "Complete"], ["Alt .", "Cancel what runs"], ["Alt T, Alt W", "New tab, close the tab"],
    ["Alt H", "History"], ["Esc then Tab", "Leave the editor"],
  ]],
  ["Schema", [["← ↑ → ↓", "Pan"], ["+ −", "Zoom"], ["0", "Show all"]]],
];

function showKeys(): void {
  dialog("Keys", [
    h("div.keys", {}, KEYS.map(([title, keys]) =>
      h("section", {}, h("h3", {}, title),
        h("dl", {}, keys.map(([key, does]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, does))))))),
    h("p.muted", {}, "On a Mac, Cmd does what Ctrl does. ",
      h("a", { href: "/static/licenses.txt", target: "_blank" }, "Licenses of the libraries in here")),
  ], { class: "wide" });
}

/** Find a page, a table or a column by a part of its name. */
function showPalette(): void {
  type Choice = { name: string; hint: string; to: string };
  const all: Choice[] = [
    ...session.tables.map((table) => ({ name: table.name, hint: "table", to: rowsPath(table.name) })),
    ...PLACES.map(([to, name]) => ({ name, hint: "page", to })),
    ...session.tables.flatMap((table) => table.columns.map((column) => ({
      name: `${table.name}.${column.name}`, hint: column.type, to: `${rowsPath(table.name)}#${column.name}` }))),
  ];
  let found: Choice[] = [];
  let chosen = 0;
  const list = h("ul", { role: "listbox", id: "found", "aria-label": "Found" });
  const input = h("input", {
    type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": "found", "aria-label": "Find a table, column or page",
    placeholder: "Find a table, column or page", autocomplete: "off", spellcheck: "false",
  });
  const draw = (): void => {
    const wanted = input.value.trim().toLowerCase();
    const rank = ({ name }: Choice): number => (name.toLowerCase().startsWith(wanted) ? 0 : name.includes(".") ? 2 : 1);
    found = all
      .filter(({ name }) => name.toLowerCase().includes(wanted) && (wanted || !name.includes(".")))
      .sort((one, other) => rank(one) - rank(other))
      .slice(0, 15);
    chosen = Math.max(0, Math.min(chosen, found.length - 1));
    replace(list, found.length === 0 && h("li.muted", { role: "option", "aria-disabled": true, "aria-selected": false }, "Nothing has that name"),
      found.map((choice, index) =>
        h("li", { role: "option", id: `found-${index}`, "aria-selected": String(index === chosen), onclick: () => { chosen = index; open(); } },
          h("span", {}, choice.name), h("span.muted", {}, choice.hint))));
    input.setAttribute("aria-activedescendant", found.length ? `found-${chosen}` : "");
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
  };
  const open = (): void => {
    const choice = found[chosen];
    if (!choice) return;
    box.close();
    go(choice.to);
    main.focus();
  };
  input.addEventListener("input", () => { chosen = 0; draw(); });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) chosen = (chosen + step + found.length) % Math.max(found.length, 1);
    else if (event.key === "Enter") open();
    else return;
    event.preventDefault();
    draw();
  });
  const box = dialog("Find", [input, list], { class: "palette" });
  input.focus();
  draw();
}

/** `Ctrl+Alt+Shift+key`; with Alt by the place of the key, because Option types other characters on a Mac. */
export function nameOf(event: KeyboardEvent): string {
  const key = event.altKey ? event.code.replace(/^(Key|Digit)/, "").replace("Period", ".") : event.key;
  return [
    event.ctrlKey || event.metaKey ? "Ctrl+" : "", event.altKey ? "Alt+" : "", event.shiftKey && key.length > 1 ? "Shift+" : "",
    key.length === 1 ? key.toLowerCase() : key,
  ].join("");
}

function onKey(event: KeyboardEvent): void {
  const control = event.ctrlKey || event.metaKey;
  if (control && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "s") {
    event.preventDefault();
    // What is being typed in a cell belongs to what is saved.
    (document.activeElement as HTMLElement | null)?.dispatchEvent(new CustomEvent("finish", { bubbles: true }));
    if (!document.querySelector("dialog[open]")) void review();
    return;
  }
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const name = nameOf(event);
  const place = /^Alt\+([1-4])$/.exec(name)?.[1];
  if (place) {
    event.preventDefault();
    go(PLACES[Number(place) - 1]![0]);
    return;
  }
  const key = current?.keys?.[name];
  if (key) {
    event.preventDefault();
    key();
    return;
  }
  const target = event.target as HTMLElement;
  if (target.isContentEditable || target.matches("input:not([type=checkbox]), textarea, select")) return;
  if (name === "/") showPalette();
  else if (name === "?") showKeys();
  else return;
  event.preventDefault();
}

export function start(answer: Session): void {
  session = { ...answer, tables: [...answer.tables].sort((one, other) => one.name.localeCompare(other.name)) };
  const write = session.mode === "write";
  document.documentElement.dataset["mode"] = session.mode;
  replace(places, PLACES.map(([to, name], index) => h("a", { href: to, title: `Alt+${index + 1}` }, name)));
  replace(tables, h("h2", {}, "Tables"), session.tables.map((table) => h("a", { href: rowsPath(table.name) }, table.name)));
  document.body.append(
    h("a.skip", { href: "#main", onclick: (event: Event) => { event.preventDefault(); main.focus(); } }, "Skip to the page"),
    h("header.bar", {},
      h("a.brand", { href: "/", "aria-label": "Tatame studio, overview" }, h("img", { src: "/static/icon.svg", alt: "", width: 22, height: 22 }), h("span", {}, "Tatame")),
      places,
      button("Find a table", showPalette, { class: "find", "aria-keyshortcuts": "/" }),
      h("span.where", { title: `${session.database} on ${session.server}, as ${session.role}` },
        h("b", {}, session.database), h("span", {}, ` as ${session.role}`)),
      h("span.mode", { title: write ? "Changes are staged, and saved when you say so" : "Start it with --write to change data" }, session.mode),
      button("?", showKeys, { "aria-label": "Keys", class: "quiet" }),
    ),
    banner, h("div.below", {}, tables, main), pending,
  );
  document.querySelector(".find")?.append(h("kbd", { "aria-hidden": true }, "/"));

  onTrouble((problem) => {
    const back = !banner.hidden && problem === null;
    banner.hidden = problem === null;
    if (problem) replace(banner, h("strong", {}, `${problem.what}.`), " ", h("span", {}, problem.means ?? ""), " ", h("span", {}, problem.fix ? `${problem.fix}.` : ""),
      " ", h("span", {}, "The page goes on by itself when it is back."));
    if (back) reload();
  });
  onChanges(drawPending);
  watchHealth();
  addEventListener("popstate", show);
  addEventListener("keydown", onKey);
  addEventListener("beforeunload", (event) => changes.size && event.preventDefault());
  addEventListener("click", (event) => {
    const link = (event.target as Element).closest?.("a");
    if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const href = link.getAttribute("href");
    if (!href?.startsWith("/") || href.startsWith("/api/") || href.startsWith("/static/") || link.target) return;
    event.preventDefault();
    link.closest("dialog")?.close();
    go(href);
  });
  show();
}
