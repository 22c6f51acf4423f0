// The editor of text, numbers, dates and JSON. It keeps everything that the user does not touch, to the character.

import { get, Refused, type Whole } from "./api.ts";
import { ChoiceList, SHOWN } from "./choice-list.ts";
import { announce, h } from "./dom.ts";
import { Editor } from "./editor.ts";
import { type InUse, noteOf, offeredOf } from "./in-use.ts";
import { parseJson, printJson } from "./json.ts";
import { encodedName } from "./names.ts";
import { restoreLineEnds } from "./text.ts";
import { asTyped, HINTS, pickerOf, problemOf } from "./typed.ts";
import { visible } from "./values.ts";

export class TextEditor extends Editor {
  protected field!: HTMLTextAreaElement;
  private start = "";
  private readonly problem = h("p.wrong", { role: "status", hidden: true });
  private readonly note = h("p.offers-note", { role: "status" });
  private list!: ChoiceList;
  private inUse: InUse = { values: [], dates: false };
  private offered: string[] = [];
  private reading: Promise<void> | null = null;
  private readonly request = new AbortController();

  protected build(typed: string | null): void {
    const { name, kind, type } = this.column;
    const text = typeof this.original === "string" ? shownText(type, this.original) : "";
    this.field = h("textarea", {
      "aria-label": name,
      spellcheck: "false",
      placeholder: this.original === null ? (HINTS[kind] ?? "NULL") : HINTS[kind],
      dir: "auto",
    });
    this.field.value = text;
    this.start = this.field.value;
    this.field.rows = Math.min(12, Math.max(kind === "text" ? 2 : 1, this.start.split("\n").length));
    if (typed !== null) this.field.value = typed;
    this.field.addEventListener("keydown", (event) => this.onKey(event));
    this.field.addEventListener("input", () => this.onInput());
    this.box.append(this.field, this.problem);
    this.addPicker(kind);
    if (kind === "text" && this.table && !this.start.includes("\n")) this.addList(this.table);
    this.box.append(
      kind === "text" || kind === "json"
        ? this.foot("Enter: accept", "Shift+Enter: new line", "Esc: discard")
        : this.foot("Enter: accept", "Esc: discard"),
    );
  }

  override afterGuiAttached(): void {
    super.afterGuiAttached();
    if (this.field.value === this.start) this.field.select();
  }

  /** The grid calls this when the editor is closed. */
  override destroy(): void {
    this.request.abort();
  }

  // --- Values in use ---

  private addList(table: string): void {
    this.list = new ChoiceList(this.field, "Values of other rows", (index) => {
      this.field.value = this.offered[index] ?? "";
      this.params.stopEditing();
    });
    this.list.element.hidden = true;
    this.box.append(this.list.element, this.note);
    this.reading = this.readValues(table);
  }

  private async readValues(table: string): Promise<void> {
    const path = [table, encodedName(this.column.name)].map(encodeURIComponent).join("/");
    try {
      this.inUse = await get<InUse>(`/api/values/${path}`, {}, { signal: this.request.signal });
    } catch (error) {
      // Without an answer the editor offers nothing.
      if (!(error instanceof Refused) && !this.request.signal.aborted) throw error;
    }
    this.reading = null;
    if (this.inUse.dates) this.addPicker("date");
    this.onInput();
  }

  private onInput(): void {
    this.check();
    if (!this.inUse.values.length) return;
    const typed = this.field.value === this.start ? "" : this.field.value;
    const found = typed.includes("\n") ? [] : offeredOf(this.inUse, typed);
    this.offered = found.slice(0, SHOWN);
    this.list.show(this.offered.map((value) => ({ key: value, content: h("bdi", visible(value)) })));
    this.list.element.hidden = !this.offered.length;
    const more = found.length > SHOWN ? "More values of other rows match: type more." : "";
    this.note.textContent = noteOf(this.inUse, typed) || more || "Values of other rows. ↑ ↓ choose.";
  }

  // --- The typed text ---

  /** The chosen value of other rows, or the typed text. */
  private text(): string {
    return (this.list && this.offered[this.list.chosen]) ?? this.field.value;
  }

  /** Read a text as it is stored: a date with the day first becomes an ISO date where the column holds dates. */
  private read(text: string): string {
    const kind = this.inUse.dates && problemOf("date", text) === null ? "date" : this.column.kind;
    return kind === "text" ? text : asTyped(kind, text);
  }

  protected override isReady(): boolean {
    // Whether the column holds dates is not known yet.
    const isOpen = this.reading !== null && asTyped("date", this.field.value) !== this.field.value.trim();
    return !isOpen && this.check();
  }

  override async finish(): Promise<boolean> {
    if (!this.isReady()) await this.reading;
    return super.finish();
  }

  /** Say why the text is no value of the column's type, or how a date is read. Returns false in the first case. */
  private check(): boolean {
    const { kind } = this.column;
    const { value } = this.field;
    const why = value === this.start ? null : problemOf(kind, value);
    const isDate = kind === "date" || kind === "timestamp" || this.inUse.dates;
    const read = this.read(value);
    const isRead = isDate && value !== this.start && read !== value.trim();
    const doubt = this.inUse.dates && value !== this.start ? problemOf("date", value) : null;
    this.problem.textContent = why ?? doubt ?? (isRead ? `= ${read}` : "");
    this.problem.hidden = this.problem.textContent === "";
    this.problem.className = why === null ? "muted read" : "wrong";
    return why === null;
  }

  /** Add the browser's own picker of dates and times. Microseconds that were not picked stay as they are. */
  private addPicker(kind: string): void {
    const shown = pickerOf(kind, this.field.value);
    if (!shown) return;
    const picker = h("input.picker", {
      type: shown.type,
      value: shown.value,
      step: 1,
      "aria-label": `Pick ${this.column.name}`,
      oninput: () => {
        if (picker.value === "") return;
        this.field.value = picker.value.replace("T", " ");
        this.check();
      },
      // Enter in the picker accepts; the arrows change the part that has the focus.
      onkeydown: (event: KeyboardEvent) => event.key.startsWith("Arrow") && event.stopPropagation(),
    });
    this.field.addEventListener("input", () => {
      picker.value = pickerOf(kind, this.field.value)?.value ?? "";
    });
    this.problem.after(picker);
  }

  private onKey(event: KeyboardEvent): void {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && !event.shiftKey && this.offered.length) {
      this.list.move(step);
      event.preventDefault();
    }
    if (event.key === "Enter" && !event.shiftKey && !this.isReady()) {
      event.stopPropagation();
      event.preventDefault();
      void this.finish();
    }
    // Otherwise the grid handles these keys itself.
    if ((event.key === "Enter" && event.shiftKey) || /^(Arrow|Home|End|Page)/.test(event.key)) event.stopPropagation();
  }

  protected value(): Whole {
    const text = this.text();
    if (text === this.start) return this.original;
    const { kind } = this.column;
    const read = this.read(text);
    if (kind !== "text") return read || null;
    if (read !== text) {
      announce(`${text} is staged as ${read}, the form of the dates in ${this.column.name}.`);
      return read;
    }
    return restoreLineEnds(typeof this.original === "string" ? this.original : "", text);
  }
}

/** PostgreSQL stores `jsonb` without its spaces, so the editor may show it with a line for each member. */
function shownText(type: string, text: string): string {
  if (type !== "jsonb" || text.length > LONGEST_PRINTED) return text;
  try {
    return printJson(parseJson(text));
  } catch {
    return text;
  }
}

const LONGEST_PRINTED = 100_000;
