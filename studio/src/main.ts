import "./studio.css";
import { get, type Session } from "./api";
import { h } from "./dom";
import { start } from "./shell";

try {
  start(await get<Session>("/api/session"));
} catch (error) {
  const problem = (error as { problem?: { what: string; means?: string; fix?: string } }).problem;
  if (!problem) throw error;
  const again = setInterval(() => void get("/api/session").then(() => { clearInterval(again); location.reload(); }, () => {}), 1000);
  document.body.append(
    h("main.alone", {},
      h("h1", {}, problem.what),
      h("p", {}, problem.means ?? ""),
      h("p", {}, problem.fix ?? ""),
      h("p.muted", {}, "This page goes on by itself."),
    ),
  );
}
