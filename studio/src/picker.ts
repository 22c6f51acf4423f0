// The editor of a reference: a search in the table that it refers to, from which a row is chosen.

import { asRefused, get, type Whole } from "./api.ts";
import { ChoiceList, SHOWN } from "./choice-list.ts";
import { announce, h } from "./dom.ts";
import { Editor } from "./editor.ts";
import { drawLabel, placeOf, rememberLabel } from "./labels.ts";
import { Latest } from "./latest.ts";
import { shownName } from "./names.ts";
import { type Choice, chosenOf, type Offer } from "./offers.ts";
import { sentence } from "./text.ts";

export class ReferenceEditor extends Editor {
  protected field!: HTMLInputElement;
  private list!: ChoiceList;
  private readonly note = h("p.offers-note", { role: "status" });
  private start = "";
  private target = "";
  private place = "";
  private offers: Offer[] = [];
  private taken: string | undefined;
  /** The text that the offers are for. */
  private asked: string | undefined;
  private readonly latest = new Latest();

  protected build(typed: string | null): void {
    this.start = typeof this.original === "string" ? this.original : "";
    const target = this.column.references;
    this.target = target?.table ?? "";
    this.place = target ? placeOf(target) : "";
    this.field = h("input", {
      type: "text",
      role: "combobox",
      "aria-label": this.column.name,
      "aria-expanded": "true",
      placeholder: this.original === null ? "NULL" : `Name or key of ${shownName(this.target)}`,
      autocomplete: "off",
      spellcheck: "false",
      value: typed ?? this.start,
    });
    this.list = new ChoiceList(this.field, "Matching rows", (index) => this.take(this.offers[index]?.key));
    this.field.addEventListener("keydown", (event) => this.onKey(event));
    this.field.addEventListener("input", () => {
      this.list.clear();
      this.latest.afterPause((signal) => void this.search(signal));
    });
    this.box.append(
      this.field,
      this.list.element,
      this.note,
      this.foot("↑ ↓: choose", "Enter: accept", "Esc: discard"),
    );
    void this.searchNow();
  }

  override afterGuiAttached(): void {
    super.afterGuiAttached();
    if (this.field.value === this.start) this.field.select();
  }

  /** The grid calls this when the editor is closed. */
  override destroy(): void {
    this.latest.stop();
  }

  private onKey(event: KeyboardEvent): void {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) this.list.move(step);
    else if (event.key === "Enter") void this.finish();
    else if (!event.key.startsWith("Arrow") && event.key !== "Home" && event.key !== "End") return;
    if (step || event.key === "Enter") event.preventDefault();
    // Otherwise the grid handles these keys itself.
    event.stopPropagation();
  }

  private searchNow(): Promise<void> {
    return this.latest.now((signal) => this.search(signal));
  }

  private async search(signal: AbortSignal): Promise<void> {
    const typed = this.field.value.trim();
    const q = typed === this.start ? "" : typed;
    try {
      const { references } = this.column;
      const column = references?.is_key ? null : references?.column;
      const found = await get<Offer[]>("/api/find", { table: this.target, column, q }, { signal });
      this.offers = found.slice(0, SHOWN);
      this.asked = typed;
      const left = found.length - this.offers.length;
      this.say(found.length ? (left ? "More rows match: type more." : "") : q && `No row matches “${typed}”.`);
    } catch (error) {
      if (signal.aborted) return;
      const { what, fix } = asRefused(error).problem;
      this.offers = [];
      this.say(`${sentence(what)} ${sentence(fix)}`);
    }
    this.draw();
  }

  private say(text: string): void {
    this.note.textContent = text;
  }

  private draw(): void {
    for (const { key, label } of this.offers) rememberLabel(this.place, key, label);
    this.list.show(this.offers.map(({ key, label }) => ({ key, content: h("span", key, drawLabel(label, key)) })));
  }

  private take(key: string | undefined): void {
    this.taken = key;
    this.params.stopEditing();
  }

  protected override isReady(): boolean {
    return !this.isUnasked() && "value" in this.choice();
  }

  override async finish(): Promise<boolean> {
    if (this.isUnasked()) await this.searchNow();
    const choice = this.choice();
    if ("value" in choice) this.take(this.offers[this.list.chosen]?.key);
    else {
      this.say(choice.problem);
      this.field.focus();
    }
    return "value" in choice;
  }

  /** True if the offers do not belong to the typed text yet. */
  private isUnasked(): boolean {
    const typed = this.field.value.trim();
    return !this.offers[this.list.chosen] && typed !== this.start && typed !== "" && this.asked !== typed;
  }

  private choice(): Choice {
    const offer = this.offers[this.list.chosen];
    if (offer) return { value: offer.key };
    const typed = this.field.value.trim();
    if (typed === this.start) return { value: this.original };
    const offers = this.asked === typed ? this.offers : [];
    return chosenOf(typed, this.column.kind, shownName(this.target), offers);
  }

  protected value(): Whole {
    if (this.taken !== undefined) return this.taken;
    const choice = this.choice();
    if ("value" in choice) return choice.value;
    // The editor was left by a click or by Tab.
    announce(`${choice.problem} Nothing was staged.`);
    return this.original;
  }
}
