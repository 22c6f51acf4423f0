// The question before a statement that destroys much is committed.

import { post } from "../../api.ts";
import { button, dialog, h } from "../../dom.ts";
import { noticeList } from "./result-pane.ts";
import type { Question } from "./stream.ts";

/** Ask about the effects of a statement. Returns a function that closes the dialog, for when nothing waits any more. */
export function askAbout(question: Question, statement: string, runId: string): () => void {
  const { lines, notices, seconds, most_unasked } = question;
  let isAnswered = false;
  const answer = (yes: boolean): void => {
    if (isAnswered) return;
    isAnswered = true;
    void post("/api/sql/answer", { id: runId, yes }).catch(() => {});
    box.close();
  };
  const box = dialog(
    "Do you want this?",
    [
      h("p", "This statement"),
      h(
        "ul",
        lines.map((line) => h("li", h("strong", line))),
      ),
      h("pre.statement", statement.length > 500 ? `${statement.slice(0, 500)}…` : statement),
      notices.length > 0 && noticeList(notices),
      h(
        "p.muted",
        `The studio asks before DROP, TRUNCATE, and a DELETE or UPDATE without a condition, and outside a transaction ` +
          `before a statement changes or deletes more than ${most_unasked} rows. `,
        `No answer within ${seconds} seconds means no.`,
      ),
      h(
        "footer",
        h("span.grow"),
        button("No, change nothing", () => answer(false), { autofocus: true }),
        button("Yes, do it", () => answer(true), { class: "danger" }),
      ),
    ],
    { class: "question" },
  );
  box.addEventListener("close", () => answer(false));
  return () => {
    isAnswered = true;
    box.close();
  };
}
