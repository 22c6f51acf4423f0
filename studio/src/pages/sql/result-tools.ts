// The tools of a result: its chart, and its export.

import { isCut, type Whole } from "../../api.ts";
import { button, h, plural } from "../../dom.ts";
import { type Exporter, type ExportOptions, exportDialog } from "../../export-form.ts";
import { saveBlob } from "../../picture.ts";
import { csvLines, jsonLines } from "../../written.ts";
import { firstSpec } from "./chart/data.ts";
import { ChartPanel } from "./chart/panel.ts";
import type { Spec } from "./chart/spec.ts";
import type { ChartStore } from "./chart/store.ts";
import type { ResultView } from "./result.ts";

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
    exportDialog(about, exporters);
  }

  private download(options: ExportOptions): void {
    const { heads, rows, name } = this.view;
    const values = rows.map((row) => row.map((cell): Whole => (isCut(cell) ? `${cell.cut}…` : cell)));
    const lines =
      options.format === "csv" ? csvLines(heads, values, options) : jsonLines(heads, values, options.format === "json");
    const suffix = options.format === "csv" && options.separator === "\t" ? "tsv" : options.format;
    saveBlob(new Blob([...lines]), `${name}.${suffix}`);
  }
}
