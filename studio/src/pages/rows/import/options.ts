// How to read the file of an import: what the server found, and what the user says instead.

import { h } from "../../../dom.ts";
import type { Reading, Sample } from "./plan.ts";

const FORMS: [string, string][] = [
  ["csv", "CSV"],
  ["json", "JSON"],
];
const ENCODINGS: [string, string][] = [
  ["utf-8", "UTF-8"],
  ["utf-8-sig", "UTF-8 with a mark"],
  ["utf-16", "UTF-16"],
  ["cp1252", "Windows-1252"],
  ["latin-1", "Latin-1"],
];
const SEPARATORS: [string, string][] = [
  [",", "Comma"],
  [";", "Semicolon"],
  ["\t", "Tab"],
  ["|", "Bar"],
];
const QUOTES: [string, string][] = [
  ['"', '"'],
  ["'", "'"],
  ["", "None"],
];
const EMPTY: [string, string][] = [
  ["null", "NULL"],
  ["text", "Empty text"],
  ["default", "The column's default"],
];

export const encodingName = (codec: string): string => ENCODINGS.find(([value]) => value === codec)?.[1] ?? codec;

export class Options {
  readonly element = h("fieldset.row", h("legend.sr", "How to read the file"));
  private readonly form: HTMLSelectElement;
  private readonly encoding: HTMLSelectElement;
  private readonly separator: HTMLSelectElement;
  private readonly quote: HTMLSelectElement;
  private readonly empty: HTMLSelectElement;
  private readonly mark: HTMLInputElement;
  private readonly header: HTMLInputElement;
  private readonly harmless: HTMLInputElement;
  private readonly ofCsv: HTMLElement;
  /** What the user chose; the server finds out the rest. */
  private chosen: Partial<Reading> = {};

  /** `reread` is called if the file must be read again, `changed` if only its values mean something else. */
  constructor(reread: () => void, changed: () => void) {
    const choose = (name: "form" | "encoding" | "separator") => (event: Event) => {
      this.chosen[name] = (event.target as HTMLSelectElement).value;
      reread();
    };
    this.form = select(FORMS, choose("form"));
    this.encoding = select(ENCODINGS, choose("encoding"));
    this.separator = select(SEPARATORS, choose("separator"));
    this.quote = select(QUOTES, reread);
    this.empty = select(EMPTY, changed);
    this.mark = h("input", { type: "text", size: 4, onchange: changed, placeholder: "\\N" });
    this.header = h("input", { type: "checkbox", checked: true, onchange: reread });
    this.harmless = h("input", {
      type: "checkbox",
      onchange: () => {
        this.chosen.harmless = this.harmless.checked;
        changed();
      },
    });
    this.ofCsv = h(
      "span.row",
      labelled("Separator", this.separator),
      labelled("Quote", this.quote),
      h("label", this.header, " First line has names"),
      labelled("Empty cells", this.empty),
      labelled("NULL is written", this.mark),
      h("label", this.harmless, " Remove ' before = + - @, as in CSV for Excel"),
    );
    this.element.append(labelled("Format", this.form), labelled("Encoding", this.encoding), this.ofCsv);
  }

  get reading(): Reading {
    const { quote, empty, mark, header, harmless } = this;
    return {
      ...this.chosen,
      quote: quote.value,
      header: header.checked,
      empty: empty.value,
      null_mark: mark.value,
      harmless: harmless.checked,
    };
  }

  /** Show what the server found. */
  show({ form, encoding, separator, harmless }: Sample): void {
    this.harmless.checked = this.chosen.harmless ?? harmless;
    this.form.value = form;
    this.encoding.value = encoding;
    if (separator !== null) this.separator.value = separator;
    this.ofCsv.hidden = form !== "csv";
  }

  /** Forget what the user chose for another file. */
  reset(): void {
    this.chosen = {};
  }
}

const select = (options: [string, string][], onchange: (event: Event) => void): HTMLSelectElement =>
  h(
    "select",
    { onchange },
    options.map(([value, text]) => h("option", { value }, text)),
  );

const labelled = (text: string, field: HTMLElement): HTMLElement => h("label", `${text} `, field);
