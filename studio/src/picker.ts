// The editor of a reference: a search in the table that it refers to, from which a row is chosen.

import { asRefused, get, type Whole } from "./api.ts";
import { announce, h, replace } from "./dom.ts";
import { Editor } from "./editor.ts";
import { drawLabel, placeOf, rememberLabel } from "./labels.ts";
import { Latest } from "./latest.ts";
import { shownName } from "./names.ts";
import { type Choice, chosenOf, type Offer } from "./offers.ts";

const SHOWN = 8;
let pickers = 0;

export class ReferenceEditor extends Editor {
  protected field!: HTMLInputElement;
  private readonly name = `offers-${++pickers}`;
  private readonly list = h("ul.offers", { role: "listbox", id: this.name, "aria-label": "Matching rows" });
  private readonly note = h("p.offers-note", { role: "status" });
  private start = "";
  private table = "";
  private place = "";
  private offers: Offer[] = [];
  private chosen = -1;
  private taken: string | undefined;
  /** The text that the offers are for. */
  private asked: string | undefined;
  private readonly latest = new Latest();

  protected build(typed: string | null): void {
    this.start = typeof this.original === "string" ? this.original : "";
    const target = this.column.references;
    this.table = target?.table ?? "";
    this.place = target ? placeOf(target) : "";
    this.field = h("input", {
      type: "text",
      role: "combobox",
      "aria-label": this.column.name,
      "aria-controls": this.name,
      "aria-expanded": "true",
      "aria-autocomplete": "list",
      placeholder: this.original === null ? "NULL" : `Name or key of ${shownName(this.table)}`,
      autocomplete: "off",
      spellcheck: "false",
      value: typed ?? this.start,
    });
    this.field.addEventListener("keydown", (event) => this.onKey(event));
    this.field.addEventListener("input", () => {
      this.choose(-1);
      this.latest.afterPause((signal) => void this.search(signal));
    });
    this.box.append(this.field, this.list, this.note, this.foot("↑ ↓: choose", "Enter: accept", "Esc: discard"));
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
    if (step) this.choose(Math.max(-1, Math.min(this.chosen + step, this.offers.length - 1)));
    else if (event.key === "Enter") void this.finish();
    else if (!event.key.startsWith("Arrow") && event.key !== "Home" && event.key !== "End") return;
    if (step || event.key === "Enter") event.preventDefault();
    // Otherwise the grid handles these keys itself.
    event.stopPropagation();
  }

  private choose(index: number): void {
    this.chosen = index;
    [...this.list.children].forEach((item, at) => {
      item.setAttribute("aria-selected", String(at === index));
    });
    const active = this.list.children[index];
    this.field.setAttribute("aria-activedescendant", active?.id ?? "");
    active?.scrollIntoView({ block: "nearest" });
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
      const found = await get<Offer[]>("/api/find", { table: this.table, column, q }, { signal });
      this.offers = found.slice(0, SHOWN);
      this.asked = typed;
      const left = found.length - this.offers.length;
      this.say(found.length ? (left ? "More rows match: type more." : "") : q && `No row matches “${typed}”.`);
    } catch (error) {
      if (signal.aborted) return;
      const { what, fix } = asRefused(error).problem;
      this.offers = [];
      this.say(`${what}: ${fix ?? ""}`);
    }
    this.draw();
  }

  private say(text: string): void {
    this.note.textContent = text;
  }

  private draw(): void {
    for (const { key, label } of this.offers) rememberLabel(this.place, key, label);
    replace(
      this.list,
      this.offers.map(({ key, label }, index) =>
        h(
          "li",
          {
            role: "option",
            id: `${this.name}-${index}`,
            "aria-selected": "false",
            "data-key": key,
            onmousedown: (event: Event) => {
              event.preventDefault();
              this.take(key);
            },
          },
          h("span", key, drawLabel(label, key)),
        ),
      ),
    );
    this.choose(-1);
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
    if ("value" in choice) this.take(this.offers[this.chosen]?.key);
    else {
      this.say(choice.problem);
      this.field.focus();
    }
    return "value" in choice;
  }

  /** True if the offers do not belong to the typed text yet. */
  private isUnasked(): boolean {
    const typed = this.field.value.trim();
    return !this.offers[this.chosen] && typed !== this.start && typed !== "" && this.asked !== typed;
  }

  private choice(): Choice {
    const offer = this.offers[this.chosen];
    if (offer) return { value: offer.key };
    const typed = this.field.value.trim();
    if (typed === this.start) return { value: this.original };
    const offers = this.asked === typed ? this.offers : [];
    return chosenOf(typed, this.column.kind, shownName(this.table), offers);
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
