// The import of CSV and JSON: choose a file, say where its values go, let PostgreSQL check the rows, then import them.

import { ask, asRefused, get, type Problem, type Table } from "../../../api.ts";
import { announce, button, dialog, h, number, plural, replace } from "../../../dom.ts";
import { problemBox } from "../../../parts.ts";
import { reload } from "../../../router.ts";
import { Mapping } from "./mapping.ts";
import { Options } from "./options.ts";
import { drawOutcome, type Outcome } from "./outcome.ts";
import type { Sample } from "./plan.ts";

/** What the server reads to describe a file. */
const START_BYTES = 262_144;

export function importRows(table: Table): void {
  new ImportDialog(table);
}

class ImportDialog {
  private readonly table: Table;
  private readonly box: HTMLDialogElement;
  private readonly options = new Options(
    () => void this.describe(),
    () => this.change(),
  );
  private readonly place = h("div.import-file");
  private readonly result = h("div", { role: "status" });
  private readonly only = h("input", { type: "checkbox", onchange: () => this.drawButtons() });
  private readonly onlyFitting = h("label", { hidden: true }, this.only, " Import only the rows that fit");
  private readonly check = button("Check the rows", () => void this.send("check"), { disabled: true });
  private readonly save = button("Import", () => void this.send("run"), { class: "primary", disabled: true });
  private readonly closer = button("Cancel", () => this.box.close());
  private file: Blob | undefined;
  private mapping: Mapping | undefined;
  private checked: Outcome | undefined;
  private running = new AbortController();

  constructor(table: Table) {
    this.table = table;
    const chosen = h("input", {
      type: "file",
      accept: ".csv,.tsv,.txt,.json,.jsonl,.ndjson",
      onchange: () => this.open(chosen.files?.[0]),
    });
    const pasted = h("textarea", {
      rows: 2,
      placeholder: "or paste the text here",
      "aria-label": "Text to import",
      spellcheck: "false",
      oninput: () => this.open(pasted.value ? new Blob([pasted.value]) : undefined),
    });
    const footer = h("footer", this.closer, h("span.grow"), this.check, this.save);
    const file = h("div.row", h("label", "File ", chosen), pasted);
    this.box = dialog(`Import into ${table.name}`, [file, this.place, this.result, this.onlyFitting, footer], {
      class: "wide import",
    });
    this.box.addEventListener("close", () => this.running.abort());
  }

  private open(file: Blob | undefined): void {
    this.file = file;
    this.options.reset();
    void this.describe();
  }

  /** Let the server read the beginning of the file, and draw what it found. */
  private async describe(): Promise<void> {
    this.change();
    this.mapping = undefined;
    this.check.disabled = true;
    const { file } = this;
    replace(this.place);
    if (!file) return;
    const partial = file.size > START_BYTES;
    try {
      const plan = { ...this.options.reading, partial };
      const sample = (await this.post("sample", plan, file.slice(0, START_BYTES))) as Sample;
      if (file !== this.file) return;
      this.options.show(sample);
      this.mapping = new Mapping(this.table, sample, () => this.change());
      replace(this.place, this.options.element, this.mapping.element);
      this.check.disabled = false;
    } catch (error) {
      replace(this.place, this.options.element, problemOf(error));
    }
  }

  /** Forget the last check, because the plan has changed. */
  private change(): void {
    this.running.abort();
    this.running = new AbortController();
    this.checked = undefined;
    this.only.checked = false;
    replace(this.result);
    this.drawButtons();
  }

  private drawButtons(): void {
    const bad = this.checked?.bad.length ?? 0;
    const isFinal = !this.checked || this.checked.stopped || this.checked.committed;
    const left = (this.checked?.rows ?? 0) - bad;
    this.onlyFitting.hidden = isFinal || bad === 0 || left === 0;
    this.save.disabled = isFinal || left === 0 || (bad > 0 && !this.only.checked);
    this.save.textContent = isFinal || left === 0 ? "Import" : `Import ${plural(left, "row")}`;
  }

  private async send(mode: "check" | "run"): Promise<void> {
    const { file, mapping } = this;
    if (!file || !mapping) return;
    const { signal } = this.running;
    const plan = { ...this.options.reading, ...mapping.plan, only_fitting: mode === "run" && this.only.checked };
    const id = crypto.randomUUID();
    this.check.disabled = this.save.disabled = true;
    // A screen reader would read each of the numbers.
    const count = h("span", { "aria-hidden": "true" });
    replace(this.result, h("p", mode === "check" ? "PostgreSQL checks the rows… " : "Importing… ", count));
    const timer = setInterval(() => void showProgress(id, count), 500);
    try {
      const outcome = (await this.post(mode, { ...plan, id }, file)) as Outcome;
      if (!signal.aborted) this.show(outcome, mode);
    } catch (error) {
      if (!signal.aborted) replace(this.result, problemOf(error));
    } finally {
      clearInterval(timer);
      if (!signal.aborted) this.check.disabled = this.checked?.committed ?? false;
    }
  }

  private show(outcome: Outcome, mode: "check" | "run"): void {
    this.checked = outcome;
    replace(this.result, drawOutcome(outcome, mode));
    this.drawButtons();
    if (!outcome.committed) {
      (this.save.disabled ? this.box : this.save).focus();
      return;
    }
    announce(`Imported ${plural(outcome.inserted + outcome.updated, "row")}.`);
    this.closer.textContent = "Close";
    this.closer.focus();
    reload();
  }

  private async post(mode: string, plan: object, file: Blob): Promise<unknown> {
    const path = `/api/import/${encodeURIComponent(this.table.name)}/${mode}`;
    const body = new Blob([`${JSON.stringify(plan)}\n`, file]);
    return (await ask(path, { method: "POST", body, signal: this.running.signal })).json();
  }
}

async function showProgress(id: string, count: HTMLElement): Promise<void> {
  const { rows } = await get<{ rows: number | null }>(`/api/import-progress/${id}`).catch(() => ({ rows: null }));
  if (rows) count.textContent = number(rows);
}

function problemOf(error: unknown): HTMLElement | null {
  if (error instanceof DOMException && error.name === "AbortError") return null;
  const problem: Problem = asRefused(error).problem;
  return problemBox(problem);
}
