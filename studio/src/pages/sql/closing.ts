// The question before a tab with an open transaction is closed.

import { button, dialog, h } from "../../dom.ts";
import type { Runner } from "./run.ts";
import type { Tab } from "./tabs.ts";

/** Ask how the transaction of a tab ends. `close` is called once it is over; after an error the tab stays open. */
export function askToClose({ name }: Tab, runner: Runner, close: () => void): void {
  const end = async (statement: string): Promise<void> => {
    box.close();
    if (await runner.end(statement)) close();
  };
  const box = dialog(`Close ${name}?`, [
    h("p", "A transaction is open in this tab. Closing the tab rolls it back, and its changes are lost."),
    h(
      "footer",
      h("span.grow"),
      button("Keep the tab open", () => box.close(), { autofocus: true }),
      !runner.session.hasFailed && button("Commit and close", () => void end("COMMIT")),
      button("Roll back and close", () => void end("ROLLBACK"), { class: "danger" }),
    ),
  ]);
}
