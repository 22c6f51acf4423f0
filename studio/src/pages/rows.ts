// The rows of a table: a page at a time, filtered, sorted, followed, and edited where that is allowed.

import type { CellKeyDownEvent, ColDef, ICellRendererParams } from "ag-grid-community";
import { asRefused, type Cell, type Column, get, isCut, rowPath, type Table, type Whole, withQuery } from "../api.ts";
import { changeOf, inserted, onChanges, stage, stageDelete, stageInsert, undo } from "../changes.ts";
import { button, h, memory, menu, number, popover, replace, say } from "../dom.ts";
import { ArrayEditor, TextEditor } from "../editors.ts";
import { conditionForm, filterBar, narrowed, readFilter, writeFilter } from "../filters.ts";
import { fittingWidth, Heading, makeGrid } from "../grid.ts";
import { keyName } from "../keys.ts";
import { go, type Page } from "../router.ts";
import { writable } from "../session.ts";
import { oneLine, plain, shortType, whole } from "../values.ts";

type Row = { key: string; cells: Record<string, Cell>; isNew?: boolean };
type Answer = {
  rows: Cell[][];
  columns: string[];
  keys: string[];
  next: string | null;
  previous: string | null;
  estimated: number | null;
  ms: number;
};
type Layout = { colId: string; width?: number; hide?: boolean }[];

const SIZES = ["50", "100", "200", "500"];

export function rowsPage(table: Table, url: URL): Page {
  const layoutName = `layout:${table.name}`;
  const byName = new Map(table.columns.map((column) => [column.name, column]));
  let at = url.searchParams;
  let answer: Answer | null = null;
  let rows: Row[] = [];
  let asked = 0;

  // --- The bar, the panel and the foot -------------------------------------------------------------------------------

  const count = button("", () => void countExactly(), { class: "quiet count", title: "Count exactly" });
  const filters = h("div.filter-bar");
  const chooser = button("Columns", () => chooseColumns(), { "aria-haspopup": "dialog" });
  const exporter = button(
    "Export",
    () =>
      menu(exporter, "Export what is shown", [
        ["CSV", () => download("csv")],
        ["JSON", () => download("json")],
      ]),
    { "aria-haspopup": "menu" },
  );
  const panel = h("aside.panel", { "aria-label": "Value", hidden: true });
  const problem = h("p.wrong", { role: "alert", hidden: true });
  const place = h("div.rows-grid");
  const mark = h("span.muted.ms");
  const paging = {
    first: button("⇤ First", () => page({}), { title: "Alt+Home" }),
    previous: button("← Previous", () => answer?.previous && page({ before: answer.previous }), {
      title: "Alt+PageUp",
    }),
    next: button("Next →", () => answer?.next && page({ after: answer.next }), { title: "Alt+PageDown" }),
    last: button("Last ⇥", () => page({ last: "1" }), { title: "Alt+End" }),
  };
  const size = h(
    "select",
    {
      "aria-label": "Rows on a page",
      onchange: () => {
        memory.set("rows", size.value);
        page({});
      },
    },
    SIZES.map((value) => h("option", { value }, value)),
  );
  size.value = memory.get("rows", "100");

  const edits = writable()
    ? [
        button("New row", () => newRow(), { title: "Insert" }),
        button("Delete", () => deleteRows(), { title: "Ctrl+Delete", "aria-label": "Delete the chosen rows" }),
      ]
    : [];
  const element = h(
    "section.rows",
    h(
      "div.toolbar",
      h("h1", table.name),
      count,
      filters,
      h(
        "div.tools",
        edits,
        chooser,
        exporter,
        button("⟳", () => void load(), { "aria-label": "Read again", title: "Read again", class: "quiet" }),
      ),
    ),
    problem,
    h("div.split", place, panel),
    h(
      "div.foot",
      { role: "group", "aria-label": "Pages of rows" },
      Object.values(paging),
      size,
      h("span.muted", "rows a page"),
      h("span.grow"),
      mark,
    ),
  );

  // --- The grid ------------------------------------------------------------------------------------------------------

  const shownIn = (row: Row, column: string): Cell | undefined => {
    const change = changeOf(table.name, row.key);
    if (change && column in change.values) return change.values[column];
    return row.isNew ? undefined : (row.cells[column] ?? null);
  };

  const linkOf = (row: Row, column: Column, cell: Cell | undefined): string | null => {
    if (typeof cell !== "string") return null;
    if (column.references) return rowPath(column.references.table, cell);
    return column.primary && !row.isNew ? rowPath(table.name, row.key) : null;
  };

  const render = ({ data, colDef }: ICellRendererParams<Row>): HTMLElement => {
    const column = byName.get(colDef?.colId ?? "");
    if (!data || !column) return h("span");
    const cell = shownIn(data, column.name);
    const link = linkOf(data, column, cell);
    const shown = oneLine(cell);
    const element = link ? h("a.follow", { href: link, tabindex: -1, title: "F4" }, shown) : shown;
    shown.querySelector(".more")?.addEventListener("click", () => void showValue(data, column));
    const why = changeOf(table.name, data.key)?.errors[column.name];
    return why ? h("span.refused", { title: why }, element, h("span.sr", ` Refused: ${why}`)) : element;
  };

  const definitions = (layout: Layout, sample: Cell[][] = []): ColDef<Row>[] => {
    const known = new Map(layout.map((state, index) => [state.colId, { ...state, index }]));
    return [...table.columns]
      .sort((one, other) => (known.get(one.name)?.index ?? 999) - (known.get(other.name)?.index ?? 999))
      .map((column): ColDef<Row> => {
        const texts = sample.map((row) => textOf(row[table.columns.indexOf(column)]));
        const right = column.kind === "integer" && !column.references && !column.primary;
        return {
          headerName: column.name,
          colId: column.name,
          ...(right ? { type: "right" } : {}),
          width:
            known.get(column.name)?.width ??
            fittingWidth(
              column.primary || column.references ? `${column.name} ◆` : column.name,
              shortType(column.type),
              texts,
            ),
          hide: known.get(column.name)?.hide ?? false,
          sortable: true,
          // The server sorts: the grid only shows which columns it was asked for.
          comparator: () => 0,
          headerComponentParams: {
            innerHeaderComponent: Heading,
            innerHeaderComponentParams: {
              type: shortType(column.type),
              mark: column.primary ? "key" : column.references?.table,
            },
          },
          valueGetter: ({ data }) => data && shownIn(data, column.name),
          equals: () => false,
          cellRenderer: render,
          editable: ({ data }) => !!data && canEdit(data, column),
          cellEditor: column.kind === "array" ? ArrayEditor : TextEditor,
          cellEditorParams: { column_: column },
          cellEditorPopup: true,
          valueSetter: ({ data, newValue }) => {
            if (data) put(data, column, newValue as Whole);
            return true;
          },
          cellClassRules: {
            staged: ({ data }) => !!data && column.name in (changeOf(table.name, data.key)?.values ?? {}),
            bad: ({ data }) => !!data && column.name in (changeOf(table.name, data.key)?.errors ?? {}),
          },
          suppressKeyboardEvent: ({ event, editing, data }) => {
            if (editing) return false;
            const name = keyName(event);
            // The browser would scroll; the grid tells of keys only later.
            if (name === " ") event.preventDefault();
            // The page's own keys come first, and Enter on a cut cell has to fetch it before it can be edited.
            return (
              ["/", "?", "F4", " ", "Delete", "Backspace", "Insert"].includes(name) ||
              /^(Ctrl|Alt)\+/.test(name) ||
              (name === "Enter" && (!data || !canEdit(data, column)))
            );
          },
        };
      });
  };

  const canEdit = (row: Row, column: Column): boolean =>
    writable() && changeOf(table.name, row.key)?.op !== "delete" && !isCut(shownIn(row, column.name));

  const grid = makeGrid<Row>(place, {
    columnDefs: definitions(memory.get<Layout>(layoutName, [])),
    rowData: [],
    getRowId: ({ data }) => data.key,
    ...(writable()
      ? {
          rowSelection: {
            mode: "multiRow",
            enableClickSelection: false,
            checkboxes: true,
            headerCheckbox: true,
          } as const,
          selectionColumnDef: { width: 40, minWidth: 40, maxWidth: 40, pinned: "left", resizable: false } as const,
        }
      : {}),
    rowClassRules: {
      gone: ({ data }) => !!data && changeOf(table.name, data.key)?.op === "delete",
      fresh: ({ data }) => !!data?.isNew,
    },
    enterNavigatesVerticallyAfterEdit: true,
    loading: true,
    overlayNoRowsTemplate: "<span>No rows</span>",
    onSortChanged: ({ source }) => {
      if (source === "api" || source === "gridOptionsChanged") return;
      const sort = grid
        .getColumnState()
        .filter((state) => state.sort)
        .sort((one, other) => (one.sortIndex ?? 0) - (other.sortIndex ?? 0))
        .map((state) => (state.sort === "desc" ? `-${state.colId}` : state.colId))
        .join(",");
      move({ sort: sort || null });
    },
    onColumnMoved: ({ finished }) => finished && rememberLayout(),
    onColumnResized: ({ finished, source }) => finished && source !== "api" && rememberLayout(),
    onColumnVisible: () => rememberLayout(),
    onCellKeyDown: (event) => onCellKey(event as CellKeyDownEvent<Row>),
    onCellDoubleClicked: ({ data, colDef }) => {
      const column = byName.get(colDef.colId ?? "");
      if (data && column && !canEdit(data, column)) void editOrShow(data, column);
    },
    onCellFocused: () => {
      if (panel.hidden) return;
      const { row, column } = focused();
      if (row && column) void showValue(row, column);
    },
  });

  function rememberLayout(): void {
    memory.set(
      layoutName,
      grid
        .getColumnState()
        .filter((state) => byName.has(state.colId))
        .map(({ colId, width, hide }): Layout[number] => ({ colId, ...(width ? { width } : {}), hide: !!hide })),
    );
  }

  function focused(): { row: Row | undefined; column: Column | undefined } {
    const cell = grid.getFocusedCell();
    return {
      row: cell ? grid.getDisplayedRowAtIndex(cell.rowIndex)?.data : undefined,
      column: byName.get(cell?.column.getColId() ?? ""),
    };
  }

  // --- Reading -------------------------------------------------------------------------------------------------------

  function move(changed: Record<string, string | null>): void {
    const search = new URLSearchParams(at);
    for (const name of ["after", "before", "last"]) search.delete(name);
    for (const [name, value] of Object.entries(changed)) {
      if (value === null) search.delete(name);
      else search.set(name, value);
    }
    go(`/t/${table.name}${search.size ? `?${search}` : ""}`);
  }
  const page = (where: Record<string, string>): void => move(where);

  function visibleColumns(): string[] {
    return grid
      .getAllDisplayedColumns()
      .map((column) => column.getColId())
      .filter((name) => byName.has(name));
  }

  async function load(): Promise<void> {
    const mine = ++asked;
    // The grid's own cover takes the focus away, so only the first reading shows it.
    place.classList.toggle("busy", rows.length > 0);
    try {
      const got = await get<Answer>(`/api/rows/${table.name}`, {
        sort: at.get("sort"),
        filter: at.get("filter"),
        limit: size.value,
        after: at.get("after"),
        before: at.get("before"),
        last: at.get("last"),
      });
      if (mine !== asked) return;
      answer = got;
      problem.hidden = true;
    } catch (error) {
      const { what, means, fix } = asRefused(error).problem;
      if (mine !== asked) return;
      grid.setGridOption("loading", false);
      place.classList.remove("busy");
      problem.hidden = false;
      replace(problem, h("strong", what), " ", means ?? "", " ", fix ?? "");
      return;
    }
    const { columns, keys } = answer;
    const first = rows.length === 0;
    rows = answer.rows.map((cells, index) => ({
      key: keys[index]!,
      cells: Object.fromEntries(columns.map((name, column) => [name, cells[column]!])),
    }));
    if (first) {
      const order = columns.map((name) => columns.indexOf(name));
      grid.setGridOption(
        "columnDefs",
        definitions(
          memory.get<Layout>(layoutName, []),
          answer.rows.map((row) => order.map((column) => row[column]!)),
        ),
      );
    }
    showSort();
    const active = document.activeElement;
    const walking = active === document.body || active?.id === "main" || !!active?.closest(".ag-cell");
    const cell = grid.getFocusedCell();
    draw();
    grid.setGridOption("loading", false);
    place.classList.remove("busy");
    if (rows.length && walking) {
      // Who walks in the grid goes on walking in it, on the page that came.
      // An address may name a column, as the finder's do.
      const column =
        grid.getColumn(location.hash.slice(1)) ??
        cell?.column ??
        grid.getAllDisplayedColumns().find((shown) => byName.has(shown.getColId()));
      if (column) grid.ensureColumnVisible(column);
      if (column) grid.setFocusedCell(Math.min(cell?.rowIndex ?? 0, rows.length - 1), column);
    }
    if (rows.length) grid.ensureIndexVisible(walking ? (cell?.rowIndex ?? 0) : 0);
    count.textContent =
      answer.estimated === null || at.get("filter") ? "count rows" : `≈ ${number(answer.estimated)} rows`;
    mark.textContent = `${number(rows.length)} rows in ${answer.ms.toFixed(answer.ms < 10 ? 1 : 0)} ms`;
    paging.first.disabled = paging.previous.disabled = !answer.previous;
    paging.next.disabled = paging.last.disabled = !answer.next;
  }

  function showSort(): void {
    const sort = (at.get("sort") ?? "").split(",").filter(Boolean);
    grid.applyColumnState({
      state: sort.map((name, sortIndex) => ({
        colId: name.replace(/^-/, ""),
        sort: name.startsWith("-") ? "desc" : "asc",
        sortIndex,
      })),
      defaultState: { sort: null },
    });
  }

  function draw(): void {
    const fresh = inserted(table.name).map((change): Row => ({ key: change.key, cells: {}, isNew: true }));
    grid.setGridOption("rowData", [...fresh, ...rows]);
    refresh();
  }

  let struck = "";
  function refresh(): void {
    grid.refreshCells({ force: true });
    // Drawing rows anew takes the focus out of them, so only where one was struck out or came back.
    const now = rows
      .map(({ key }) => key)
      .filter((key) => changeOf(table.name, key)?.op === "delete")
      .join();
    if (now !== struck) grid.redrawRows();
    struck = now;
  }

  function drawFilters(): void {
    const filter = readFilter(at.get("filter"));
    replace(
      filters,
      filterBar(table, filter, (changed) => {
        move({ filter: writeFilter(changed) });
        filters.querySelector<HTMLElement>("button.add")?.focus();
      }),
    );
  }

  async function countExactly(): Promise<void> {
    count.textContent = "counting…";
    try {
      const { rows: exact } = await get<{ rows: number }>(`/api/count/${table.name}`, { filter: at.get("filter") });
      count.textContent = `${number(exact)} rows`;
    } catch (error) {
      count.textContent = "not counted";
      say(asRefused(error).problem.what);
    }
  }

  function download(format: "csv" | "json"): void {
    h("a", {
      href: withQuery(`/api/export/${table.name}.${format}`, {
        sort: at.get("sort"),
        filter: at.get("filter"),
        columns: visibleColumns().join(","),
      }),
      download: "",
    }).click();
    say(`All rows of this filter, in this order, as ${format.toUpperCase()}.`);
  }

  function chooseColumns(): void {
    const list = h("ul.chooser");
    const states = (): Layout => grid.getColumnState().filter(({ colId }) => byName.has(colId)) as Layout;
    const shift = (name: string, by: number): void => {
      const names = states().map(({ colId }) => colId);
      const from = names.indexOf(name);
      if (from + by < 0 || from + by >= names.length) return;
      names.splice(from + by, 0, ...names.splice(from, 1));
      grid.applyColumnState({ state: names.map((colId) => ({ colId })), applyOrder: true });
      rememberLayout();
      drawList();
      list.querySelector<HTMLElement>(`[data-column="${name}"] ${by < 0 ? ".up" : ".down"}`)?.focus();
    };
    const drawList = (): void =>
      replace(
        list,
        states().map(({ colId, hide }) =>
          h(
            "li",
            { "data-column": colId },
            h(
              "label",
              h("input", {
                type: "checkbox",
                checked: !hide,
                onchange: (event: Event) => grid.setColumnsVisible([colId], (event.target as HTMLInputElement).checked),
              }),
              colId,
            ),
            h("span.grow"),
            button("↑", () => shift(colId, -1), { class: "quiet up", "aria-label": `${colId} further left` }),
            button("↓", () => shift(colId, 1), { class: "quiet down", "aria-label": `${colId} further right` }),
          ),
        ),
      );
    const all = (show: boolean): void => {
      grid.setColumnsVisible(
        table.columns.map(({ name }) => name).filter((name) => show || name !== table.primary_key),
        show,
      );
      drawList();
    };
    drawList();
    popover(
      chooser,
      "Columns",
      h(
        "div.row",
        button("All", () => all(true)),
        button("None but the id", () => all(false)),
        button("As at first", () => {
          memory.forget(layoutName);
          grid.setGridOption("columnDefs", []);
          grid.setGridOption("columnDefs", definitions([], answer?.rows ?? []));
          memory.forget(layoutName);
          showSort();
          drawList();
        }),
      ),
      list,
    );
  }

  // --- Values --------------------------------------------------------------------------------------------------------

  async function wholeOf(row: Row, column: Column): Promise<Whole | undefined> {
    const cell = shownIn(row, column.name);
    if (!isCut(cell)) return cell;
    return (await get<{ value: Whole }>(`/api/cell/${table.name}/${column.name}/${encodeURIComponent(row.key)}`)).value;
  }

  async function showValue(row: Row, column: Column): Promise<void> {
    panel.hidden = false;
    const cell = shownIn(row, column.name);
    const link = linkOf(row, column, cell);
    const change = changeOf(table.name, row.key);
    const head = h(
      "header",
      h("h2", column.name),
      h("span.muted", column.type),
      h("span.grow"),
      button(
        "×",
        () => {
          panel.hidden = true;
        },
        { "aria-label": "Close the value", class: "quiet" },
      ),
    );
    const body = h("div.body", h("p.muted", "…"));
    replace(panel, head, body);
    let value: Whole | undefined;
    try {
      value = await wholeOf(row, column);
    } catch (error) {
      return replace(body, h("p.wrong", asRefused(error).problem.what));
    }
    const text = plain(value);
    const filter = button("Filter by it", () => {
      const condition =
        value === null
          ? { column: column.name, op: "null" }
          : { column: column.name, op: column.kind === "array" ? "has any" : "is", value: value as string | string[] };
      move({ filter: writeFilter(narrowed(readFilter(at.get("filter")), condition)) });
    });
    replace(
      body,
      change?.errors[column.name] && h("p.wrong", change.errors[column.name]),
      value === undefined ? oneLine(value) : whole(value),
      typeof value === "string" && value !== "" && h("p.muted", `${number([...value].length)} characters`),
      change && column.name in change.was && h("div", h("h3", "Before"), whole(change.was[column.name] ?? null)),
      h(
        "div.row",
        link &&
          h("a.button", { href: link }, column.references ? `Open ${column.references.table} ${text}` : "Open the row"),
        button("Copy", () => void copy(text)),
        value !== undefined && text.length < 500 && filter,
      ),
    );
  }

  async function copy(text: string): Promise<void> {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  }

  function put(row: Row, column: Column, value: Whole): void {
    const before = row.isNew ? null : (row.cells[column.name] ?? null);
    if (!row.isNew || value !== null || changeOf(table.name, row.key)?.values[column.name] !== undefined)
      stage(table.name, row.key, column.name, isCut(before) ? null : before, value);
  }

  async function editOrShow(row: Row, column: Column): Promise<void> {
    const cell = shownIn(row, column.name);
    if (writable() && isCut(cell) && changeOf(table.name, row.key)?.op !== "delete") {
      const value = await wholeOf(row, column);
      row.cells[column.name] = value ?? null;
      const index = grid.getRowNode(row.key)?.rowIndex;
      if (index !== null && index !== undefined) grid.startEditingCell({ rowIndex: index, colKey: column.name });
    } else {
      await showValue(row, column);
    }
  }

  async function setNull(row: Row, column: Column): Promise<void> {
    if (!writable()) {
      say("This studio only reads. Start it with --write to change data.");
      return;
    }
    if (!column.nullable) {
      say(`${column.name} may not be NULL.`);
      return;
    }
    const cell = row.cells[column.name];
    if (isCut(cell)) row.cells[column.name] = (await wholeOf(row, column)) ?? null;
    put(row, column, null);
  }

  function onCellKey({ data, colDef, event, api }: CellKeyDownEvent<Row>): void {
    const column = byName.get(colDef.colId ?? "");
    if (!data || !column || !(event instanceof KeyboardEvent) || api.getEditingCells().length) return;
    const cell = shownIn(data, column.name);
    const link = linkOf(data, column, cell);
    const act: Record<string, () => void> = {
      " ": () => void showValue(data, column),
      Enter: () => void (canEdit(data, column) || editOrShow(data, column)),
      F4: () => (link ? go(link) : say("This cell refers to no row.")),
      Delete: () => void setNull(data, column),
      "Ctrl+c": () => void wholeOf(data, column).then((value) => copy(plain(value))),
      Escape: () => {
        panel.hidden = true;
      },
    };
    const found = act[keyName(event)];
    if (!found || (event.key === "Enter" && canEdit(data, column))) return;
    event.preventDefault();
    found();
  }

  function newRow(): void {
    if (!writable()) {
      say("This studio only reads. Start it with --write to change data.");
      return;
    }
    const key = stageInsert(table.name);
    grid.ensureIndexVisible(0, "top");
    const index = grid.getRowNode(key)?.rowIndex ?? 0;
    const columns = grid.getAllDisplayedColumns().filter((column) => byName.get(column.getColId())?.default === null);
    const target =
      columns.find((column) => !byName.get(column.getColId())?.primary) ?? grid.getAllDisplayedColumns()[0];
    if (target) {
      grid.ensureColumnVisible(target);
      grid.setFocusedCell(index, target);
    }
  }

  function deleteRows(): void {
    if (!writable()) {
      say("This studio only reads. Start it with --write to change data.");
      return;
    }
    const chosen = grid.getSelectedRows();
    const { row } = focused();
    const targets = chosen.length ? chosen : row ? [row] : [];
    if (!targets.length) {
      say("Choose rows first, or go to a cell of the row.");
      return;
    }
    for (const target of targets) stageDelete(table.name, target.key, target.cells);
    grid.deselectAll();
  }

  const stop = onChanges(() => {
    if (inserted(table.name).length === grid.getDisplayedRowCount() - rows.length) refresh();
    else draw();
  });

  // What was copied elsewhere goes into the cell as it is.
  place.addEventListener("paste", (event) => {
    const { row, column } = focused();
    const text = event.clipboardData?.getData("text/plain");
    if (!text || !row || !column || grid.getEditingCells().length || column.kind === "array" || !canEdit(row, column))
      return;
    event.preventDefault();
    put(row, column, text);
  });

  drawFilters();
  void load();
  return {
    title: table.name,
    element,
    update: (next) => {
      at = next.searchParams;
      drawFilters();
      void load();
    },
    reload: () => void load(),
    leave: () => {
      stop();
      asked++; // what still arrives is for nobody
      grid.destroy();
    },
    keys: {
      "Alt+Home": () => paging.first.click(),
      "Alt+PageUp": () => paging.previous.click(),
      "Alt+PageDown": () => paging.next.click(),
      "Alt+End": () => paging.last.click(),
      "Alt+f": () => {
        const anchor = filters.querySelector<HTMLElement>("button.add");
        const { column } = focused();
        if (anchor)
          conditionForm(
            table,
            anchor,
            null,
            (condition) => move({ filter: writeFilter(narrowed(readFilter(at.get("filter")), condition)) }),
            column?.name,
          );
      },
      Insert: newRow,
      "Ctrl+Delete": deleteRows,
      "Ctrl+Backspace": deleteRows,
      ...(writable() ? { "Ctrl+z": undo } : {}),
    },
  };
}

const textOf = (cell: Cell | undefined): string =>
  cell === null || cell === undefined ? "NULL" : isCut(cell) ? cell.cut : Array.isArray(cell) ? cell.join("  ") : cell;
