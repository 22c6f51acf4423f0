// The bar of a tab's session: its open transaction, its end, and the notifications that it received.

import { post } from "../../api.ts";
import { button, h, plural, replace } from "../../dom.ts";
import { writable } from "../../session.ts";
import { noteTransaction, type OpenTransaction } from "../../transactions.ts";
import type { Notification, SessionState } from "./stream.ts";

const POLL_MS = 2000;
const MOST_NOTIFICATIONS = 100;

export class SessionBar {
  readonly element = h("div.session", { role: "status", "aria-live": "polite", hidden: true });
  /** The name of the session on the server. Another visit of the page has other sessions. */
  readonly id = crypto.randomUUID();
  private state: SessionState = {
    transaction: "none",
    open: false,
    ended: null,
    lost_transaction: false,
    notifications: [],
  };
  private notifications: Notification[] = [];
  private drawn = "";
  private readonly run: (text: string) => void;
  private readonly opened: OpenTransaction;

  /** `opened` describes the tab while it has an open transaction. */
  constructor(run: (text: string) => void, opened: OpenTransaction) {
    this.run = run;
    this.opened = opened;
  }

  get isOpen(): boolean {
    return this.state.open;
  }

  /** Whether a transaction is open, or was when the session ended: the next statement must not run outside of it. */
  get inTransaction(): boolean {
    return this.state.transaction !== "none" || this.state.lost_transaction;
  }

  /** Whether something is lost when the page closes. */
  get hasWork(): boolean {
    return writable() && this.state.transaction !== "none";
  }

  get hasFailed(): boolean {
    return this.state.transaction === "failed";
  }

  set(state: SessionState): void {
    const lost_transaction = state.lost_transaction || (this.inTransaction && !!state.ended);
    this.state = { ...state, lost_transaction };
    noteTransaction(this.id, this.hasWork ? this.opened : null);
    this.notifications = [...this.notifications, ...state.notifications].slice(-MOST_NOTIFICATIONS);
    this.draw();
  }

  private draw(): void {
    const { transaction, ended, lost_transaction } = this.state;
    // Buttons that are drawn again would lose the focus.
    const next = JSON.stringify([transaction, ended, lost_transaction, this.notifications]);
    if (next === this.drawn) return;
    this.drawn = next;
    const parts = [this.transactionPart(), this.endPart(), this.notificationsPart()].filter((part) => part !== null);
    this.element.hidden = !parts.length;
    replace(this.element, parts);
  }

  private transactionPart(): HTMLElement | null {
    const { transaction } = this.state;
    if (transaction === "none") return null;
    const failed = transaction === "failed";
    return h(
      "div.transaction",
      { class: writable() || failed ? "warning" : "" },
      h("strong", failed ? "The transaction has failed." : "A transaction is open."),
      h("span", failed ? " PostgreSQL runs no statement until it is rolled back." : ""),
      !failed && button("Commit", () => this.run("COMMIT"), writable() ? { class: "primary" } : {}),
      button("Roll back", () => this.run("ROLLBACK")),
    );
  }

  private endPart(): HTMLElement | null {
    const { ended, lost_transaction } = this.state;
    if (!ended) return null;
    const lost = lost_transaction ? " Its open transaction was rolled back." : "";
    return h("div", h("strong", "The session has ended"), `: ${ended}.${lost} The next statement opens a new one.`);
  }

  private notificationsPart(): HTMLElement | null {
    const { length } = this.notifications;
    if (!length) return null;
    const clear = (): void => {
      this.notifications = [];
      this.draw();
    };
    return h(
      "div.notifications",
      h("span", plural(length, "notification"), " ", button("Clear", clear, { class: "quiet" })),
      h(
        "ul.plain",
        this.notifications.map(({ channel, payload, pid }) =>
          h("li", h("strong", channel), payload && `: ${payload}`, h("span.muted", ` from session ${pid}`)),
        ),
      ),
    );
  }
}

/** Read the states of all open sessions while the page is visible, and end them with the page. */
export function watchSessions(bars: () => SessionBar[]): void {
  const look = async (): Promise<void> => {
    const open = bars().filter(({ isOpen }) => isOpen);
    if (document.hidden || !open.length) return;
    const states = await post<Record<string, SessionState>>("/api/sql/states", { tabs: open.map(({ id }) => id) });
    for (const bar of open) {
      const state = states[bar.id];
      if (state) bar.set(state);
    }
  };
  // Without a response, the banner says that the studio is not responding.
  setInterval(() => void look().catch(() => {}), POLL_MS);
  addEventListener("beforeunload", (event) => bars().some(({ hasWork }) => hasWork) && event.preventDefault());
  addEventListener("pagehide", () => closeSessions(bars()));
}

/** End sessions on the server. It works while the page closes, too. */
export const closeSessions = (bars: SessionBar[]): void => {
  const tabs = bars.map(({ id }) => id);
  for (const id of tabs) noteTransaction(id, null);
  const headers = { "Content-Type": "application/json" };
  void fetch("/api/sql/close", { method: "POST", keepalive: true, headers, body: JSON.stringify({ tabs }) }).catch(
    () => {},
  );
};
