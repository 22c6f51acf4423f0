// JSON as a tree that folds. A branch is drawn when it is opened.

import type { Column, Whole } from "./api.ts";
import { button, h, number, plural } from "./dom.ts";
import { type Json, parseJson } from "./json.ts";
import { visible, whole } from "./values.ts";

const SHOWN = 100;

/** A longer text takes seconds to parse. */
const LONGEST = 1_000_000;

/** Draw a value in full: JSON as a tree, any other with all its lines. */
export function wholeOf(value: Whole, { kind }: Pick<Column, "kind">): HTMLElement {
  const isJson = kind === "json" && typeof value === "string" && value.length < LONGEST;
  return (isJson ? jsonTree(value) : null) ?? whole(value);
}

/** Draw JSON as a tree; null if it is only one value, or not shown better than as text. */
function jsonTree(text: string): HTMLElement | null {
  try {
    const json = parseJson(text);
    return membersOf(json) ? h("div.json", node(null, json, true)) : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

type Member = [name: string, value: Json];

const membersOf = (json: Json): Member[] | null => {
  if (json.kind === "object") return json.entries;
  return json.kind === "array" ? json.items.map((item, at): Member => [String(at), item]) : null;
};

function node(name: string | null, json: Json, open = false): HTMLElement {
  const label = name !== null && [h("bdi.key", visible(name)), ": "];
  const members = membersOf(json);
  if (!members) return h("div.leaf", label, h("bdi", { class: json.kind }, visible("text" in json ? json.text : "")));
  const [bracket, word] = json.kind === "object" ? ["{}", "member"] : ["[]", "item"];
  const details = h("details", h("summary", label, h("span.muted", `${bracket} ${plural(members.length, word)}`)));
  const draw = (): void => {
    if (details.open && details.childElementCount === 1) addMembers(details, members);
  };
  details.addEventListener("toggle", draw);
  details.open = open;
  draw();
  return details;
}

function addMembers(parent: HTMLElement, members: Member[], from = 0): void {
  parent.append(...members.slice(from, from + SHOWN).map(([name, json]) => node(name, json)));
  const rest = members.length - from - SHOWN;
  if (rest <= 0) return;
  const more = button(`Show ${number(Math.min(rest, SHOWN))} more of ${number(rest)}`, () => {
    more.remove();
    addMembers(parent, members, from + SHOWN);
  });
  parent.append(more);
}
