// SQL: an editor that knows the tables, one statement at a time, results as they arrive, plans as a tree.

import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { PostgreSQL, sql } from "@codemirror/lang-sql";
import { bracketMatching, ensureSyntaxTree, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { lintKeymap, setDiagnostics } from "@codemirror/lint";
import { EditorState, Prec, type Transaction } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import type { CellKeyDownEvent, GridApi } from "ag-grid-community";
import { ask, type Cell, isCut, post, posted, Refused } from "../api.ts";
import { button, dialog, h, memory, number, replace, say } from "../dom.ts";
import { cspNonce, fittingWidth, Heading, makeGrid } from "../grid.ts";
import { keyName } from "../keys.ts";
import { type Plan, planTable } from "../plan.ts";
import type { Page } from "../router.ts";
import { session } from "../session.ts";
import { oneLine, plain, shortType, whole } from "../values.ts";

type Tab = { name: string; text: string };
type Past = { text: string; at: string; ms?: number; rows?: number; failed?: string };
type Line = {
  columns?: { name: string; type: string }[];
  rows?: Cell[][];
  plan?: unknown;
  done?: { rows: number; more?: boolean; ms: number; command?: string; notices?: string[] };
  error?: {
    what: string;
    position?: number | null;
    hint?: string | null;
    code?: string | null;
    means?: string;
    fix?: string;
  };
};

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--accent)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--code-text)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--code-number)" },
  { tag: [tags.comment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.typeName], color: "var(--code-type)" },
]);

const FIRST =
  "SELECT u.first_name, u.last_name, g.name AS gym, count(c.id) AS visits\nFROM users u\nJOIN gyms g ON g.id = u.gym_id\nLEFT JOIN checkins c ON c.user_id = u.id\nGROUP BY u.id, g.id\nORDER BY visits DESC;\n";

const RIGHT = /^(smallint|integer|bigint|numeric|real|double precision|int2|int4|int8|float4|float8)\b/;

export function sqlPage(): Page {
  let tabs = memory.get<Tab[]>("sql:tabs", [{ name: "Query 1", text: FIRST }]);
  let open = Math.min(memory.get("sql:open", 0), tabs.length - 1);
  const states = new Map<Tab, EditorState>();
  let running: { id: string; abort: AbortController } | null = null;
  let grid = null as GridApi<Cell[]> | null;

  // --- The parts -----------------------------------------------------------------------------------------------------

  const strip = h("div.tabs", { role: "tablist", "aria-label": "Queries" });
  const place = h("div.editor-place", { id: "query", role: "tabpanel", "aria-label": "Query" });
  const run = button("Run", () => void execute(), { class: "primary", title: "Ctrl+Enter" });
  const explain = button("Explain", () => void execute("plan"), { title: "Ctrl+Shift+Enter" });
  const analyze = button("Explain analyze", () => void execute("analyze"), {
    title: "Runs it, and measures each step",
  });
  const cancel = button("Cancel", () => void stop(), { class: "danger", title: "Alt+.", hidden: true });
  const cap = h(
    "select",
    { "aria-label": "Rows at most", onchange: () => memory.set("sql:cap", cap.value) },
    ["100", "1000", "10000", "50000"].map((value) => h("option", { value }, `${number(Number(value))} rows`)),
  );
  cap.value = memory.get("sql:cap", "1000");
  const outcome = h("div.outcome", { role: "status", "aria-live": "polite" });
  const results = h("div.results");
  const element = h(
    "section.sql",
    h("h1.sr", "SQL"),
    strip,
    place,
    h(
      "div.toolbar",
      run,
      explain,
      analyze,
      cancel,
      cap,
      h("span.grow"),
      outcome,
      h("span.grow"),
      button("History", showHistory, { title: "Alt+H" }),
    ),
    results,
  );

  const schema = Object.fromEntries(
    session.tables.map((table) => [
      table.name,
      table.columns.map((column) => ({
        label: column.name,
        type: "property",
        detail: shortType(column.type),
      })),
    ]),
  );
  const extensions = [
    lineNumbers(),
    history(),
    drawSelection(),
    bracketMatching(),
    closeBrackets(),
    highlightActiveLine(),
    autocompletion({ icons: false }),
    sql({ dialect: PostgreSQL, schema, upperCaseKeywords: true }),
    syntaxHighlighting(colours),
    EditorView.lineWrapping,
    EditorView.domEventHandlers({ beforeinput: typedOver }),
    EditorView.contentAttributes.of({ "aria-label": "SQL", spellcheck: "false" }),
    ...(cspNonce() ? [EditorView.cspNonce.of(cspNonce())] : []),
    Prec.highest(
      keymap.of([
        {
          key: "Mod-Enter",
          run: () => {
            void execute();
            return true;
          },
        },
        {
          key: "Mod-Shift-Enter",
          run: () => {
            void execute("plan");
            return true;
          },
        },
      ]),
    ),
    keymap.of([
      ...closeBracketsKeymap,
      ...defaultKeymap,
      ...historyKeymap,
      ...completionKeymap,
      ...lintKeymap,
      indentWithTab,
    ]),
    EditorView.updateListener.of((update) => {
      if (!update.docChanged) return;
      tabs[open]!.text = update.state.doc.toString();
      rememberTabs();
    }),
  ];
  const stateOf = (tab: Tab): EditorState => {
    const known = states.get(tab) ?? EditorState.create({ doc: tab.text, extensions });
    states.set(tab, known);
    return known;
  };
  const view = new EditorView({ state: stateOf(tabs[open]!), parent: place });

  // --- Tabs ----------------------------------------------------------------------------------------------------------

  const rememberTabs = (): void => memory.set("sql:tabs", tabs);

  function choose(index: number, focus = true): void {
    const before = tabs[open];
    if (before) states.set(before, view.state);
    open = Math.max(0, Math.min(index, tabs.length - 1));
    view.setState(stateOf(tabs[open]!));
    memory.set("sql:open", open);
    drawTabs();
    if (focus) view.focus();
  }

  function drawTabs(): void {
    replace(
      strip,
      tabs.map((tab, index) => {
        const label = button(tab.name, () => choose(index), {
          role: "tab",
          "aria-selected": String(index === open),
          "aria-controls": "query",
          tabindex: index === open ? 0 : -1,
          title: "Double-click or F2 to rename",
        });
        label.addEventListener("dblclick", () => rename(tab, label));
        label.addEventListener("keydown", (event) => {
          const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (event.key === "F2") rename(tab, label);
          else if (event.key === "Delete") close(index);
          else if (step) {
            choose((index + step + tabs.length) % tabs.length, false);
            strip.querySelector<HTMLElement>('[aria-selected="true"]')?.focus();
          } else return;
          event.preventDefault();
        });
        return label;
      }),
    );
    if (!side.isConnected) strip.after(side);
  }
  const side = h(
    "div.tab-side",
    button("+", () => add(), { "aria-label": "New tab", title: "Alt+T", class: "quiet" }),
    button("×", () => close(open), { "aria-label": "Close the tab", title: "Alt+W", class: "quiet" }),
  );

  function add(text = ""): void {
    const used = tabs.map(({ name }) => Number(/^Query (\d+)$/.exec(name)?.[1] ?? 0));
    tabs.push({ name: `Query ${Math.max(0, ...used) + 1}`, text });
    rememberTabs();
    choose(tabs.length - 1);
  }

  function close(index: number): void {
    const [gone] = tabs.splice(index, 1);
    if (gone) states.delete(gone);
    if (!tabs.length) tabs = [{ name: "Query 1", text: "" }];
    rememberTabs();
    const next = open > index ? open - 1 : Math.min(open, tabs.length - 1);
    open = tabs.length;
    choose(next);
  }

  function rename(tab: Tab, label: HTMLElement): void {
    const input = h("input", { type: "text", value: tab.name, "aria-label": "Name of the tab" });
    const keep = (): void => {
      tab.name = input.value.trim() || tab.name;
      rememberTabs();
      drawTabs();
    };
    input.addEventListener("blur", keep);
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Escape") input.value = tab.name;
      if (event.key === "Enter" || event.key === "Escape") input.blur();
    });
    label.replaceWith(input);
    input.select();
  }

  // --- Running -------------------------------------------------------------------------------------------------------

  /** What to run: the selection, or the statement in which the cursor is. */
  function chosen(): { text: string; from: number } {
    const { state } = view;
    const { main } = state.selection;
    if (!main.empty) return { text: state.sliceDoc(main.from, main.to), from: main.from };
    const statements: { from: number; to: number }[] = [];
    ensureSyntaxTree(state, state.doc.length, 500)
      ?.topNode.cursor()
      .iterate((node) => {
        if (node.name === "Statement") statements.push({ from: node.from, to: node.to });
        return node.name === "Script" || node.type.isTop;
      });
    const found = statements.find(({ to }) => main.head <= to) ?? statements.at(-1);
    return found
      ? { text: state.sliceDoc(found.from, found.to), from: found.from }
      : { text: state.doc.toString(), from: 0 };
  }

  async function execute(how?: "plan" | "analyze"): Promise<void> {
    if (running) return say("A statement runs already. Cancel it first.");
    const { text, from } = chosen();
    if (!text.trim()) return say("There is nothing to run.");
    const id = crypto.randomUUID();
    const abort = new AbortController();
    running = { id, abort };
    view.dispatch(setDiagnostics(view.state, []));
    grid?.destroy();
    grid = null;
    replace(results);
    for (const control of [run, explain, analyze]) control.disabled = true;
    cancel.hidden = false;
    const began = performance.now();
    const clock = setInterval(() => {
      outcome.textContent = `running for ${Math.round((performance.now() - began) / 1000)} s`;
    }, 1000);
    outcome.textContent = "running";
    outcome.classList.remove("wrong");
    const past: Past = { text, at: new Date().toISOString() };
    let count = 0;
    try {
      const answer = await ask("/api/sql", {
        ...posted({ id, text, ...(how ? { explain: how } : {}), limit: Number(cap.value) }),
        signal: abort.signal,
      });
      for await (const line of lines(answer)) {
        if (line.columns) startGrid(line.columns);
        if (line.rows) {
          count += line.rows.length;
          const start = count - line.rows.length;
          (grid as GridApi<Cell[]> | null)?.applyTransaction({
            add: line.rows.map((row, index) => Object.assign(row, { at: start + index })),
          });
          if (!start) fit(line.rows);
        }
        if (line.plan) replace(results, planTable(line.plan as Plan, how === "analyze"));
        if (line.done) {
          const { rows, ms, more, command, notices } = line.done;
          past.ms = ms;
          past.rows = rows;
          outcome.textContent = how
            ? `explained in ${ms.toFixed(1)} ms`
            : `${command && !/^SELECT/.test(command) ? `${command} · ` : ""}${number(rows)} rows in ${ms.toFixed(ms < 10 ? 1 : 0)} ms${more ? ", and there are more" : ""}`;
          if (notices?.length)
            results.prepend(
              h(
                "ul.plain.notices",
                notices.map((notice) => h("li", notice)),
              ),
            );
        }
        if (line.error) fail(line.error, text, from, past);
      }
    } catch (error) {
      if (error instanceof Refused)
        fail({ ...error.problem, what: error.problem.what } as NonNullable<Line["error"]>, text, from, past);
      else if (abort.signal.aborted) outcome.textContent = "stopped";
      else
        fail(
          { what: "The answer broke off", means: "The studio or the database went away while it ran." },
          text,
          from,
          past,
        );
    } finally {
      clearInterval(clock);
      running = null;
      for (const control of [run, explain, analyze]) control.disabled = false;
      cancel.hidden = true;
      memory.set("sql:history", [past, ...memory.get<Past[]>("sql:history", [])].slice(0, 200));
    }
  }

  async function stop(): Promise<void> {
    if (!running) return;
    outcome.textContent = "cancelling";
    await post("/api/sql/cancel", { id: running.id }).catch(() => running?.abort.abort());
  }

  function fail(error: NonNullable<Line["error"]>, text: string, from: number, past: Past): void {
    past.failed = error.what;
    outcome.textContent = "failed";
    outcome.classList.add("wrong");
    let where: HTMLElement | null = null;
    if (error.position) {
      // PostgreSQL counts characters, the editor counts in UTF-16.
      const offset = from + [...text].slice(0, error.position - 1).join("").length;
      const to = Math.min(
        view.state.doc.length,
        offset + (/^[\p{L}\p{N}_]+|^./su.exec(view.state.sliceDoc(offset, offset + 100))?.[0].length ?? 1),
      );
      view.dispatch(
        setDiagnostics(view.state, [{ from: Math.min(offset, to), to, severity: "error", message: error.what }]),
      );
      const line = view.state.doc.lineAt(Math.min(offset, view.state.doc.length));
      where = button(
        `Line ${line.number}, column ${offset - line.from + 1}`,
        () => {
          view.dispatch({ selection: { anchor: offset }, scrollIntoView: true });
          view.focus();
        },
        { class: "inline" },
      );
    }
    results.prepend(
      h(
        "div.problem",
        { role: "alert" },
        h("strong", error.what),
        where && h("p", where),
        error.hint && h("p", `Hint: ${error.hint}`),
        error.means && h("p", error.means),
        error.fix && h("p", error.fix),
        error.code && h("p.muted", `SQLSTATE ${error.code}`),
      ),
    );
  }

  // --- Results -------------------------------------------------------------------------------------------------------

  let heads: { name: string; type: string }[] = [];

  function startGrid(columns: { name: string; type: string }[]): void {
    heads = columns;
    const box = h("div.result-grid");
    const value = h("aside.panel", { "aria-label": "Value", hidden: true });
    const show = (cell: Cell | undefined, name: string): void => {
      value.hidden = false;
      replace(
        value,
        h(
          "header",
          h("h2", name),
          h("span.grow"),
          button(
            "×",
            () => {
              value.hidden = true;
            },
            { "aria-label": "Close the value", class: "quiet" },
          ),
        ),
        h(
          "div.body",
          isCut(cell)
            ? [
                h("p.muted", `The first ${number([...cell.cut].length)} of ${number(cell.length)} characters`),
                whole(cell.cut),
              ]
            : whole(cell ?? null),
        ),
      );
    };
    replace(results, h("div.split", box, value));
    grid = makeGrid<Cell[]>(box, {
      columnDefs: columns.map(({ name, type }, index) => ({
        colId: String(index),
        headerName: name,
        sortable: false,
        ...(RIGHT.test(type) ? { type: "right" } : {}),
        headerComponentParams: { innerHeaderComponent: Heading, innerHeaderComponentParams: { type } },
        valueGetter: ({ data }) => data?.[index],
        cellRenderer: ({ data }: { data?: Cell[] }) => oneLine(data?.[index] ?? null),
        suppressKeyboardEvent: ({ event }) => {
          if (event.key === " ") event.preventDefault();
          return ["/", "?", " "].includes(event.key);
        },
      })),
      rowData: [],
      overlayNoRowsTemplate: "<span>No rows</span>",
      onCellKeyDown: (pressed) => {
        const { event, data, colDef } = pressed as CellKeyDownEvent<Cell[]>;
        if (!(event instanceof KeyboardEvent)) return;
        const cell = data?.[Number(colDef.colId)];
        const name = keyName(event);
        if (name === " " || name === "Enter") show(cell, colDef.headerName ?? "");
        else if (name === "Escape") value.hidden = true;
        else if (name === "Ctrl+c")
          void navigator.clipboard
            .writeText(isCut(cell) ? cell.cut : plain(cell))
            .then(() =>
              say(
                isCut(cell)
                  ? `Copied the first ${number([...cell.cut].length)} of ${number(cell.length)} characters.`
                  : "Copied.",
              ),
            );
        else return;
        event.preventDefault();
      },
      onCellDoubleClicked: ({ data, colDef }) => show(data?.[Number(colDef.colId)], colDef.headerName ?? ""),
    });
  }

  function fit(rows: Cell[][]): void {
    grid?.applyColumnState({
      state: heads.map(({ name, type }, index) => ({
        colId: String(index),
        width: fittingWidth(
          name,
          type,
          rows.slice(0, 40).map((row) => {
            const cell = row[index] ?? null;
            return cell === null ? "NULL" : isCut(cell) ? cell.cut : Array.isArray(cell) ? cell.join("  ") : cell;
          }),
        ),
      })),
    });
  }

  // --- History -------------------------------------------------------------------------------------------------------

  function showHistory(): void {
    const all = memory.get<Past[]>("sql:history", []);
    const list = h("ul.history");
    const input = h("input", {
      type: "search",
      "aria-label": "Find in the history",
      placeholder: "Find in the history",
      oninput: () => draw(),
    });
    const draw = (): void =>
      replace(
        list,
        all
          .filter(({ text }) => text.toLowerCase().includes(input.value.toLowerCase()))
          .map((past) =>
            h(
              "li",
              h(
                "button",
                {
                  type: "button",
                  onclick: () => {
                    box.close();
                    add(past.text);
                  },
                },
                h("code", past.text.length > 300 ? `${past.text.slice(0, 300)}…` : past.text),
                h(
                  "span.muted",
                  past.at.replace("T", " ").slice(0, 16),
                  past.failed
                    ? h("span.wrong", ` · ${past.failed}`)
                    : past.ms === undefined
                      ? ""
                      : ` · ${number(past.rows ?? 0)} rows · ${past.ms.toFixed(1)} ms`,
                ),
              ),
            ),
          ),
      );
    const box = dialog(
      "History",
      [
        all.length
          ? [
              h(
                "div.row",
                input,
                button("Forget all", () => {
                  memory.forget("sql:history");
                  box.close();
                }),
              ),
              list,
            ]
          : h("p.muted", "Nothing was run yet. What you run is kept in this browser alone."),
      ],
      { class: "wide" },
    );
    draw();
  }

  drawTabs();
  return {
    title: "SQL",
    element,
    leave: () => {
      if (running) void stop();
      grid?.destroy();
      view.destroy();
    },
    keys: {
      "Alt+t": () => add(),
      "Alt+w": () => close(open),
      "Alt+h": showHistory,
      "Alt+.": () => void stop(),
      "Ctrl+Enter": () => void execute(),
    },
  };
}

/** Type over a selection: left to itself, the browser would carry its style along in an attribute, which our policy forbids. */
function typedOver(event: InputEvent, view: EditorView): boolean {
  const { main } = view.state.selection;
  if (event.inputType !== "insertText" || event.data === null || main.empty || view.composing) return false;
  const { data } = event;
  event.preventDefault();
  const insert = (): Transaction =>
    view.state.update(view.state.replaceSelection(data), { userEvent: "input.type", scrollIntoView: true });
  if (!view.state.facet(EditorView.inputHandler).some((handle) => handle(view, main.from, main.to, data, insert)))
    view.dispatch(insert());
  return true;
}

/** Read newline-delimited JSON as it arrives. */
async function* lines(answer: Response): AsyncGenerator<Line> {
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const parts = rest.split("\n");
    rest = done ? "" : parts.pop()!;
    for (const part of parts) if (part.trim()) yield JSON.parse(part);
    if (done) return;
  }
}
