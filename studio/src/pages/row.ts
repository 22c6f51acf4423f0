// One row: its full values, what it points to, and what points to it.

import { type Cell, get, isCut, rowPath, rowsPath, type Table, type Whole } from "../api.ts";
import { button, h, number, plural, replace, say } from "../dom.ts";
import { showing } from "../parts.ts";
import type { Page } from "../router.ts";
import { writable } from "../session.ts";
import { oneLine, plain, shortType, visible, whole } from "../values.ts";

type Answer = {
  row: Record<string, Cell>;
  references: Record<string, { table: string; key: string; label: string } | null>;
  referenced_by: { table: string; column: string; rows: number; more?: boolean }[];
};

export function rowPage(table: Table, key: string): Page {
  const element = h("section.page.row-page");
  const here = { all: [{ column: table.primary_key, op: "is", value: key }] };

  async function load(): Promise<void> {
    const body = h("div");
    const title = h("h1", h("a", { href: rowsPath(table.name) }, table.name), " ", h("span.key", key));
    replace(element, h("div.toolbar", title), body);
    await showing(body, async () => {
      const found = await get<Answer>(`/api/row/${table.name}/${encodeURIComponent(key)}`);
      replace(
        element,
        h(
          "div.toolbar",
          title,
          h("span.grow"),
          h("a.button", { href: rowsPath(table.name, here) }, writable() ? "Edit in the grid" : "Show in the grid"),
          button("Copy as JSON", () => void copyAll(found.row)),
        ),
        h("div.sides", values(found), incoming(found)),
      );
    });
  }

  const wholeOf = async (column: string, cell: Cell): Promise<Whole> =>
    isCut(cell)
      ? (await get<{ value: Whole }>(`/api/cell/${table.name}/${column}/${encodeURIComponent(key)}`)).value
      : cell;

  async function copyAll(row: Record<string, Cell>): Promise<void> {
    const all = await Promise.all(
      Object.entries(row).map(async ([column, cell]) => [column, await wholeOf(column, cell)]),
    );
    await navigator.clipboard.writeText(JSON.stringify(Object.fromEntries(all), null, 2));
    say("Copied.");
  }

  async function copy(column: string, cell: Cell): Promise<void> {
    await navigator.clipboard.writeText(plain(await wholeOf(column, cell)));
    say("Copied.");
  }

  function values({ row, references }: Answer): HTMLElement {
    return h(
      "dl.values",
      table.columns.map((column) => {
        const cell = row[column.name] ?? null;
        const target = references[column.name];
        const body = h("div.value");
        if (isCut(cell)) {
          replace(
            body,
            oneLine({ ...cell, cut: cell.cut.slice(0, 200) }),
            " ",
            button("Show it whole", () => void wholeOf(column.name, cell).then((value) => replace(body, whole(value)))),
          );
        } else if (target) {
          replace(
            body,
            h(
              "a.follow",
              { href: rowPath(target.table, target.key) },
              `${target.table} ${target.key}`,
              target.label && target.label !== target.key ? h("bdi", " ", visible(target.label)) : "",
            ),
          );
        } else {
          replace(
            body,
            typeof cell === "string" && !cell.includes("\n") && cell.length < 200 ? oneLine(cell) : whole(cell),
          );
        }
        const copier =
          cell !== null &&
          cell !== "" &&
          button("Copy", () => void copy(column.name, cell), {
            class: "quiet copy",
            "aria-label": `Copy ${column.name}`,
          });
        return h(
          "div",
          h(
            "dt",
            h("span", column.name),
            h(
              "span.type",
              shortType(column.type),
              column.primary ? " · key" : "",
              column.nullable || column.primary ? "" : " · never NULL",
            ),
          ),
          h("dd", body, copier),
        );
      }),
    );
  }

  function incoming({ referenced_by }: Answer): HTMLElement {
    const some = referenced_by.filter(({ rows }) => rows);
    const none = referenced_by.filter(({ rows }) => !rows).map(({ table: name, column }) => `${name}.${column}`);
    return h(
      "section.incoming",
      h("h2", "Points here"),
      some.length
        ? h(
            "ul.plain",
            some.map(({ table: name, column, rows, more }) =>
              h(
                "li",
                h(
                  "a",
                  { href: rowsPath(name, { all: [{ column, op: "is", value: key }] }) },
                  h("strong", name),
                  ` ${column}`,
                ),
                h("span.muted", ` ${more ? `${number(rows)} rows or more` : plural(rows, "row")}`),
              ),
            ),
          )
        : "",
      none.length
        ? h("p.muted", `No row: ${none.join(", ")}`)
        : referenced_by.length
          ? ""
          : h("p.muted", "No table refers to this one."),
    );
  }

  void load();
  return { title: `${table.name} ${key}`, element, reload: () => void load() };
}
