// Cancelling the statement of a session, after a question.

import { asRefused, post } from "../../api.ts";
import { announce, button, dialog, h, replace } from "../../dom.ts";
import { problemBox } from "../../parts.ts";
import { writable } from "../../session.ts";
import { statementOf } from "./text.ts";
import type { Session } from "./waits.ts";

/** Draw the button, if the statement of the session may be cancelled here; `cancelOnClick` acts on it. */
export const cancelButton = ({ pid, state, own, kind }: Session): HTMLElement | false =>
  writable() &&
  !own &&
  kind === "client backend" &&
  state === "active" &&
  h("button", { type: "button", "data-cancel": pid, "aria-label": `Cancel the statement of session ${pid}` }, "Cancel");

/** Ask on a click on a button within `parent`, because the buttons are redrawn; `done` is called after a cancellation. */
export function cancelOnClick(parent: HTMLElement, find: (pid: number) => Session | undefined, done: () => void): void {
  parent.addEventListener("click", ({ target }) => {
    const pid = target instanceof HTMLElement ? target.dataset.cancel : undefined;
    const session = pid === undefined ? undefined : find(Number(pid));
    if (session) ask(session, done);
  });
}

function ask(session: Session, done: () => void): void {
  const { pid, role, application, started } = session;
  const problem = h("div", { role: "alert" });
  const confirm = button(
    "Cancel the statement",
    async () => {
      confirm.disabled = true;
      try {
        const { cancelled } = await post<{ cancelled: boolean }>("/api/activity/cancel", { pid, started });
        announce(
          cancelled ? `Cancelled the statement of session ${pid}.` : `Session ${pid} runs no statement any more.`,
        );
        box.close();
        done();
      } catch (error) {
        confirm.disabled = false;
        replace(problem, problemBox(asRefused(error).problem));
      }
    },
    { class: "danger" },
  );
  const keep = button("Let it run", () => box.close());
  const box = dialog(`Cancel the statement of session ${pid}?`, [
    h(
      "p",
      `It runs as ${role ?? "an unknown role"}${application ? ` in ${application}` : ""}. `,
      "Its transaction fails, and is rolled back; the session stays connected.",
    ),
    h("div", statementOf(session)),
    problem,
    h("footer", h("span.grow"), keep, confirm),
  ]);
  keep.focus();
}
