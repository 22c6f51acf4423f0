// The router: which page an address shows, and the browser's history.

import { asRefused, get, type Problem, type Table } from "./api.ts";
import { button, h, replace } from "./dom.ts";
import type { Shortcut, Shortcuts } from "./help.ts";
import { shownName } from "./names.ts";
import { problemBox } from "./parts.ts";
import { describeTable } from "./session.ts";

export type Page = {
  title: string;
  element: HTMLElement;
  /** Show the same page at another address, such as another filter. */
  update?: (url: URL) => void;
  /** Read the data again, after a save or once the database is back. Call `arrived` before the new data is shown. */
  reload?: (arrived: () => void) => void;
  leave?: () => void;
  /** The page's keyboard shortcuts. */
  keys?: Shortcuts;
};

/** A page, or the promise of one whose code is not loaded yet. */
type Coming = Page | Promise<Page>;

export type Place = { path: string; name: string; page: () => Coming };

export type Pages = {
  /** The pages in the bar, in order. */
  places: Place[];
  rows: (table: Table, url: URL) => Coming;
  row: (table: Table, key: string) => Coming;
};

/** Return the function that makes a page, and loads its code before the first one. */
export function lazily<Arguments extends unknown[]>(
  load: () => Promise<(...its: Arguments) => Page>,
): (...its: Arguments) => Coming {
  let make: ((...its: Arguments) => Page) | undefined;
  return (...its) => {
    if (make) return make(...its);
    const loaded = (made: typeof make & object): Page => {
      make = made;
      return make(...its);
    };
    return load().then(loaded, notLoaded);
  };
}

export const main = h("main", { id: "main", tabindex: -1 });

let pages: Pages;
let current: (Page & { path: string }) | undefined;

/** Show the page of the current address, and follow the browser's history from now on. */
export function startRouter(table: Pages): void {
  pages = table;
  addEventListener("popstate", () => void show());
  addEventListener("click", onLink);
  void show();
}

/** Go to a page of the studio; with `replace`, the current address is no step of the history. */
export function go(to: string, { replace = false } = {}): void {
  if (to !== location.pathname + location.search + location.hash) {
    if (replace) history.replaceState(null, "", to);
    else history.pushState(null, "", to);
  }
  void show();
}

/** Read the current page's data again. `arrived` is called once, before the new data is shown. */
export function reload(arrived = (): void => {}): void {
  if (current?.reload) current.reload(arrived);
  else arrived();
}

/** Return the shortcut of the current page for a key. */
export const pageKey = (name: string): (() => void) | undefined => current?.keys?.[name as Shortcut];

function pageAt(url: URL): Coming {
  const [first, name, key] = url.pathname.split("/").slice(1).map(decodeURIComponent);
  if (first === "t" && name) return pageOfTable(name, key, url);
  return pages.places.find(({ path }) => path === url.pathname)?.page() ?? notFound(undefined);
}

async function pageOfTable(name: string, key: string | undefined, url: URL): Promise<Page> {
  try {
    const table = await describeTable(name);
    return await (key ? pages.row(table, key) : pages.rows(table, url));
  } catch (error) {
    const { status, problem } = asRefused(error);
    return status === 404 ? notFound(shownName(name)) : failed(shownName(name), problem);
  }
}

const failed = (title: string, problem: Problem): Page => ({
  title,
  element: h("section.page", h("h1", title), problemBox(problem)),
  reload: (arrived) => {
    arrived();
    void show();
  },
});

const notFound = (table: string | undefined): Page => ({
  title: "Not found",
  element: h(
    "section.page",
    h("h1", "Page not found"),
    h(
      "p",
      table === undefined ? "" : `This database has no table named ${table}. `,
      "Press / to find a table, or go to the ",
      h("a", { href: "/" }, "overview"),
      ".",
    ),
  ),
});

const loading = (): Page => ({ title: "Loading", element: h("section.page", h("p.muted", "Loading…")) });

function notLoaded(): Page {
  // If the studio is not responding, the banner says so, and the page is loaded once it is.
  void get("/api/health").catch(() => {});
  const problem = {
    what: "This page could not be loaded",
    means: "The studio sent no code for it. Staged changes are still here.",
    fix: "check the terminal running `tatame-db studio`, then try again",
  };
  return {
    title: "Not loaded",
    element: h(
      "section.page",
      problemBox(problem),
      h(
        "p",
        button("Try again", () => void show()),
      ),
    ),
    reload: (arrived) => {
      arrived();
      void show();
    },
  };
}

let shown = 0;

async function show(): Promise<void> {
  const url = new URL(location.href);
  for (const open of document.querySelectorAll<HTMLDialogElement>("dialog[open]")) open.close();
  if (current?.update && current.path === url.pathname) {
    current.update(url);
    named(current);
    return;
  }
  current?.leave?.();
  const turn = ++shown;
  let page = pageAt(url);
  if (page instanceof Promise) {
    enter(loading(), url);
    page = await page;
    // Another page was chosen meanwhile.
    if (turn !== shown) return void page.leave?.();
  }
  enter(page, url);
}

function enter(page: Page, url: URL): void {
  current = { ...page, path: url.pathname };
  replace(main, page.element);
  main.scrollTop = 0;
  if (!main.contains(document.activeElement)) main.focus();
  named(page);
}

function named(page: Page): void {
  document.title = `${page.title} · Tatame studio`;
  markCurrent();
}

/** Mark the links in the frame that lead to the current page or to its table. */
export function markCurrent(): void {
  const here = location.pathname;
  for (const link of document.querySelectorAll<HTMLAnchorElement>("nav.places a, nav.tables a")) {
    const path = new URL(link.href).pathname;
    if (here === path || (path !== "/" && here.startsWith(`${path}/`))) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function onLink(event: MouseEvent): void {
  const link = (event.target as Element).closest?.("a");
  const modified = event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
  if (!link || event.defaultPrevented || modified) return;
  const href = link.getAttribute("href");
  if (!href?.startsWith("/") || href.startsWith("/api/") || href.startsWith("/static/") || link.target) return;
  event.preventDefault();
  link.closest("dialog")?.close();
  go(href);
}
