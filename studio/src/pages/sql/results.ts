// The results of a run: a view for each statement, and a list of them if there are several.

import { button, h, replace } from "../../dom.ts";
import type { ResultPane } from "./result-pane.ts";

export class Results {
  readonly element = h("div.results");
  private readonly list = h("div.result-list", { role: "group", "aria-label": "Results", hidden: true });
  private readonly place = h("div.result-views");
  private views: ResultPane[] = [];
  private shown: ResultPane | null = null;
  private isVisible = true;

  constructor() {
    this.element.append(this.list, this.place);
  }

  /** Whether the tab of these results is open; those of another tab keep no grid. */
  set visible(isVisible: boolean) {
    this.isVisible = isVisible;
    if (isVisible) this.shown?.show();
    else this.shown?.hide();
  }

  clear(): void {
    this.shown?.hide();
    this.shown = null;
    this.views = [];
    this.list.hidden = true;
    replace(this.list);
    replace(this.place);
  }

  /** Return the view of the statement that runs now. */
  get last(): ResultPane | undefined {
    return this.views.at(-1);
  }

  /** Add the result of another statement, and show it. */
  add(view: ResultPane): ResultPane {
    this.views.push(view);
    this.choose(view);
    return view;
  }

  /** Draw the list again, after a result has ended. */
  drawList(): void {
    this.list.hidden = this.views.length < 2;
    if (this.list.hidden) return;
    const buttons = this.views.map((view, index) =>
      button(
        `${index + 1} · ${view.summary}`,
        () => {
          this.choose(view);
          this.drawList();
          this.list.querySelectorAll("button")[index]?.focus();
        },
        {
          "aria-pressed": String(view === this.shown),
          class: view.failed ? "wrong" : "",
          title: view.statement.slice(0, 300),
        },
      ),
    );
    replace(this.list, buttons);
  }

  private choose(view: ResultPane): void {
    if (this.shown !== view) this.shown?.hide();
    this.shown = view;
    replace(this.place, view.element);
    if (this.isVisible) view.show();
  }
}
