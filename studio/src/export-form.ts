// The dialog of an export: the format and its options, which this browser stores.

import { button, type Child, dialog, h, memory } from "./dom.ts";
import { type CsvOptions, PLAIN_CSV } from "./written.ts";

export type Format = "csv" | "json" | "jsonl";
/** `names` adds the names of referenced rows. */
export type ExportOptions = CsvOptions & { format: Format; names: boolean };
/** A way to export: the name of its button, and what it does. */
export type Exporter = [label: string, start: (options: ExportOptions) => void];

/** The choice of the dialog that stands for CSV with these options. */
const EXCEL = "excel";
const EXCEL_CSV: CsvOptions = { separator: ";", nulls: "", harmless: true, mark: true };
const FORMATS: [string, string][] = [
  [EXCEL, "CSV for Excel"],
  ["csv", "CSV"],
  ["json", "JSON array"],
  ["jsonl", "JSON lines"],
];
const SEPARATORS: [string, string][] = [
  [",", "Comma"],
  [";", "Semicolon"],
  ["\t", "Tab"],
];
const NULLS: [string, string][] = [
  ["", "Empty field"],
  ["\\N", "\\N"],
];

const stored = (): ExportOptions => ({ ...PLAIN_CSV, format: "csv", names: false, ...memory.get("export", {}) });

const isForExcel = (options: ExportOptions): boolean =>
  options.format === "csv" &&
  (Object.keys(EXCEL_CSV) as (keyof CsvOptions)[]).every((name) => options[name] === EXCEL_CSV[name]);

/** Show the dialog. Each exporter is a button; `about` says which rows are exported, which may have references. */
export function exportDialog(about: Child[], exporters: Exporter[], hasReferences = false): void {
  const options = stored();
  const format = select("Format", FORMATS, isForExcel(options) ? EXCEL : options.format);
  const separator = select("Separator", SEPARATORS, options.separator);
  const nulls = select("NULL", NULLS, options.nulls);
  const mark = checkbox("Byte order mark, so that Excel reads accents", options.mark);
  const harmless = checkbox("Apostrophe before texts that a spreadsheet would compute", options.harmless);
  const names = checkbox("Names beside references", options.names);
  names.hidden = !hasReferences;
  const forExcel = h(
    "p.muted",
    "Semicolons, a byte order mark, and an apostrophe before texts that Excel would compute.",
  );
  const csv = h("div.export-csv", separator, nulls, mark, harmless);
  const field = (label: HTMLElement): HTMLInputElement | HTMLSelectElement | null =>
    label.querySelector<HTMLInputElement | HTMLSelectElement>("input, select");
  const isChecked = (label: HTMLElement): boolean => (field(label) as HTMLInputElement).checked;
  const show = (): void => {
    csv.hidden = field(format)?.value !== "csv";
    forExcel.hidden = field(format)?.value !== EXCEL;
  };
  format.addEventListener("change", show);
  show();
  const buttons = exporters.map(([label, start], index) => {
    const chosen = (): void => {
      const chosenCsv: CsvOptions = {
        separator: field(separator)?.value as CsvOptions["separator"],
        nulls: field(nulls)?.value as CsvOptions["nulls"],
        mark: isChecked(mark),
        harmless: isChecked(harmless),
      };
      const isExcel = field(format)?.value === EXCEL;
      const choice: ExportOptions = {
        ...(isExcel ? EXCEL_CSV : chosenCsv),
        format: isExcel ? "csv" : (field(format)?.value as Format),
        names: isChecked(names),
      };
      memory.set("export", choice);
      box.close();
      start(choice);
    };
    return button(label, chosen, index === 0 ? { class: "primary", autofocus: true } : {});
  });
  const box = dialog("Export", [h("p", about), format, forExcel, csv, names, h("footer", buttons)], {
    class: "export",
  });
}

/** Return the options as the parameters of an address. */
export const exportQuery = ({
  format,
  separator,
  nulls,
  mark,
  harmless,
  names,
}: ExportOptions): Record<string, string> => ({
  ...(names ? { names: "1" } : {}),
  ...(format === "csv"
    ? {
        ...(separator === "," ? {} : { separator }),
        ...(nulls ? { null: nulls } : {}),
        ...(mark ? { mark: "1" } : {}),
        ...(harmless ? { harmless: "1" } : {}),
      }
    : {}),
});

const select = (name: string, choices: [string, string][], chosen: string): HTMLLabelElement =>
  h(
    "label.field",
    name,
    h(
      "select",
      choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
    ),
  );

const checkbox = (name: string, checked: boolean): HTMLLabelElement =>
  h("label", h("input", { type: "checkbox", checked }), name);
