// The tools of a result: its chart, and its export.

import { ask, isCut, posted, Refused, type Whole, withQuery } from "../../api.ts";
import { announce, button, dialog, h, plural } from "../../dom.ts";
import { type Exporter, type ExportOptions, exportDialog, exportQuery } from "../../export-form.ts";
import { problemBox } from "../../parts.ts";
import { saveBlob } from "../../picture.ts";
import { csvLines, jsonLines } from "../../written.ts";
import { firstSpec } from "./chart/data.ts";
import { ChartPanel } from "./chart/panel.ts";
import type { Spec } from "./chart/spec.ts";
import type { ChartStore } from "./chart/store.ts";
import type { ResultView } from "./result.ts";

const BROKEN_OFF = {
  what: "The export was interrupted",
  means: "The studio or the database stopped while the statement was running. No file was written.",
};

export class ResultTools {
  readonly element: HTMLElement;
  private readonly view: ResultView;
  private readonly split: HTMLElement;
  private readonly store: ChartStore;
  private readonly opener: HTMLButtonElement;
  private chart: ChartPanel | null = null;

  /** `split` holds the grid; the chart appears beside it. */
  constructor(view: ResultView, split: HTMLElement, store: ChartStore) {
    this.view = view;
    this.split = split;
    this.store = store;
    this.opener = button("Chart", () => this.toggle(), { "aria-pressed": "false" });
    const exporter = button("Export", () => this.export(), { "aria-haspopup": "dialog" });
    this.element = h("div.row.result-tools", this.opener, exporter);
  }

  /** Show the chart that is stored with the statement, once all rows have arrived. */
  complete(): void {
    const spec = this.store.read();
    if (this.chart) this.chart.update();
    else if (spec && this.view.heads.length) this.show(spec);
  }

  destroy(): void {
    this.chart?.destroy();
  }

  private toggle(): void {
    if (this.chart) {
      this.close();
      return;
    }
    const stored = this.store.read();
    const spec = stored ?? firstSpec(this.view.heads, this.view.rows.length);
    if (spec && !stored) this.store.write(spec);
    this.show(spec);
  }

  private show(spec: Spec | null): void {
    this.chart = new ChartPanel(this.view, spec, (changed) => {
      this.store.write(changed);
      if (changed === null) this.close();
    });
    this.split.append(this.chart.element);
    this.opener.setAttribute("aria-pressed", "true");
  }

  private close(): void {
    this.chart?.destroy();
    this.chart?.element.remove();
    this.chart = null;
    this.opener.setAttribute("aria-pressed", "false");
    this.opener.focus();
  }

  private export(): void {
    const { rows, hasMore } = this.view;
    const isCutShort = rows.some((row) => row.some(isCut));
    const about = [
      hasMore ? `The first ${plural(rows.length, "row")}, as they arrived.` : "The rows as they arrived.",
      isCutShort && " Long values are cut.",
    ];
    const exporters: Exporter[] = [[`Download ${plural(rows.length, "row")}`, (options) => this.download(options)]];
    if (hasMore || isCutShort) {
      about.push(" All rows: the statement runs again, in a read-only transaction outside the session of the tab.");
      exporters.push(["Download all rows", (options) => void this.downloadAll(options)]);
    }
    exportDialog(about, exporters);
  }

  private download(options: ExportOptions): void {
    const { heads, rows } = this.view;
    const values = rows.map((row) => row.map((cell): Whole => (isCut(cell) ? `${cell.cut}…` : cell)));
    const lines =
      options.format === "csv" ? csvLines(heads, values, options) : jsonLines(heads, values, options.format === "json");
    saveBlob(new Blob([...lines]), this.fileName(options));
  }

  private async downloadAll(options: ExportOptions): Promise<void> {
    const name = this.fileName(options);
    const path = withQuery(`/api/sql/export/${options.format}`, exportQuery(options));
    announce("Exporting all rows.");
    try {
      const answer = await ask(path, posted({ text: this.view.statement }));
      saveBlob(await answer.blob(), name);
    } catch (error) {
      dialog("Not exported", [problemBox(error instanceof Refused ? error.problem : BROKEN_OFF)]);
    }
  }

  private fileName({ format, separator }: ExportOptions): string {
    return `${this.view.name}.${format === "csv" && separator === "\t" ? "tsv" : format}`;
  }
}
