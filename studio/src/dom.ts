// Helpers that build pages. Data always becomes text, never markup.

export type Child = Node | string | number | null | undefined | false | Child[];
type Props = Record<string, unknown>;
/** Optional attributes and listeners, followed by children. */
type Content = [Props, ...Child[]] | Child[];

const isProps = (value: Props | Child): value is Props =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Node);

function fill(element: Element, content: Content): void {
  const [first, ...rest] = content;
  if (first === undefined || !isProps(first)) {
    append(element, content as Child[]);
    return;
  }
  for (const [name, value] of Object.entries(first)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value as EventListener);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "indeterminate")
      (element as unknown as Props)[name] = value;
    // The selector may have set others.
    else if (name === "class") element.classList.add(...String(value).split(" ").filter(Boolean));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, rest as Child[]);
}

function append(parent: Element, children: Child[]): void {
  for (const child of children) {
    if (Array.isArray(child)) append(parent, child);
    else if (child !== null && child !== undefined && child !== false)
      parent.append(child instanceof Node ? child : String(child));
  }
}

/** Create an element with classes, attributes, listeners and children: `h("button.primary", { onclick }, "Save")`. */
export function h<K extends keyof HTMLElementTagNameMap>(
  selector: K | `${K}.${string}`,
  ...content: Content
): HTMLElementTagNameMap[K] {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag as K);
  if (classes.length) element.className = classes.join(" ");
  fill(element, content);
  return element;
}

/** Create an SVG element, like `h`. */
export function s<K extends keyof SVGElementTagNameMap>(tag: K, ...content: Content): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, content);
  return element;
}

export function replace(parent: Element, ...children: Child[]): void {
  parent.replaceChildren();
  append(parent, children);
}

export function button(label: string, onclick: (event: MouseEvent) => void, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", onclick, ...props }, label);
}

let status: HTMLElement | undefined;
let fading: ReturnType<typeof setTimeout> | undefined;

/** Show a short message, and announce it to screen readers. */
export function announce(text: string): void {
  status ??= h("div.toast", { role: "status", "aria-live": "polite" });
  if (!status.isConnected) document.body.append(status);
  status.textContent = text;
  status.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => status?.classList.remove("shown"), 4000);
}

export async function copyText(text: string, done = "Copied."): Promise<void> {
  await navigator.clipboard.writeText(text);
  announce(done);
}

/** Open a modal dialog. Escape and its button close it and return the focus to the element that had it. */
export function dialog(title: string, body: Child[], props: Props = {}): HTMLDialogElement {
  const before = document.activeElement as HTMLElement | null;
  const heading = h("h2", { id: `dialog-${Date.now()}` }, title);
  const element = h(
    "dialog",
    { "aria-labelledby": heading.id, ...props },
    h(
      "header",
      heading,
      button("×", () => element.close(), { "aria-label": "Close", class: "quiet" }),
    ),
    h("div.body", body),
  );
  element.addEventListener("close", () => {
    element.remove();
    (before?.isConnected ? before : document.getElementById("main"))?.focus();
  });
  // A selection of text that ends outside is a click on the dialog too.
  let isPressedOutside = false;
  element.addEventListener("mousedown", (event) => {
    isPressedOutside = event.target === element;
  });
  element.addEventListener("click", (event) => isPressedOutside && event.target === element && element.close());
  document.body.append(element);
  element.showModal();
  return element;
}

/** Show a small panel below a button. A click outside it or Escape closes it. */
export function popover(anchor: HTMLElement, label: string, ...body: Child[]): HTMLElement {
  const panel = h("div.popover", { popover: "auto", role: "dialog", "aria-label": label }, body);
  document.body.append(panel);
  panel.showPopover();
  const at = anchor.getBoundingClientRect();
  panel.style.top = `${Math.max(8, Math.min(at.bottom + 4, innerHeight - panel.offsetHeight - 8))}px`;
  panel.style.left = `${Math.max(8, Math.min(at.left, innerWidth - panel.offsetWidth - 8))}px`;
  anchor.setAttribute("aria-expanded", "true");
  panel.addEventListener("toggle", (event) => {
    if ((event as ToggleEvent).newState !== "closed") return;
    anchor.setAttribute("aria-expanded", "false");
    const inside = panel.contains(document.activeElement) || document.activeElement === document.body;
    panel.remove();
    if (inside && anchor.isConnected) anchor.focus();
  });
  panel.querySelector<HTMLElement>("input, select, button, textarea, a")?.focus();
  return panel;
}

/** Show a drop-down menu. Arrow keys move between its buttons. */
export function menu(anchor: HTMLElement, label: string, choices: [string, () => void][]): void {
  const buttons = choices.map(([text, choose]) =>
    button(
      text,
      () => {
        panel.hidePopover();
        choose();
      },
      { role: "menuitem" },
    ),
  );
  const panel = popover(anchor, label, h("div.menu", { role: "menu", "aria-label": label }, buttons));
  panel.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const index = buttons.indexOf(document.activeElement as HTMLButtonElement);
    buttons[(index + step + buttons.length) % buttons.length]?.focus();
  });
}

export const number = (value: number): string => value.toLocaleString("en");

export function bytes(size: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = size > 0 ? Math.min(Math.floor(Math.log2(size) / 10), 4) : 0;
  return `${(size / 1024 ** power).toLocaleString("en", { maximumFractionDigits: power ? 1 : 0 })} ${units[power]}`;
}

export const plural = (count: number, word: string): string => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

/** Values that this browser stores between visits. Without storage they are lost, and nothing fails. */
export const memory = {
  get<T>(name: string, otherwise: T): T {
    try {
      return JSON.parse(localStorage.getItem(name) ?? "null") ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name: string, value: unknown): void {
    try {
      localStorage.setItem(name, JSON.stringify(value));
    } catch {
      announce("The browser's storage is full. This setting was not saved.");
    }
  },
  forget: (name: string): void => localStorage.removeItem(name),
};

/** The nonce without which the page's policy rejects a style sheet of a library. */
export const cspNonce = (): string => document.querySelector<HTMLMetaElement>('meta[name="csp-nonce"]')?.content ?? "";
