import "./studio.css";
import { asRefused, get, type Session } from "./api.ts";
import { h } from "./dom.ts";
import { activityPage } from "./pages/activity/page.ts";
import { movePage } from "./pages/move/page.ts";
import { overviewPage } from "./pages/overview.ts";
import { lazily, type Pages } from "./router.ts";
import { start } from "./shell.ts";
import { sentence } from "./text.ts";

const rowPage = lazily(async () => (await import("./pages/row/page.ts")).rowPage);
const rowsPage = lazily(async () => (await import("./pages/rows/page.ts")).rowsPage);
const schemaPage = lazily(async () => (await import("./pages/schema/page.ts")).schemaPage);
const sqlPage = lazily(async () => (await import("./pages/sql/page.ts")).sqlPage);

const pages: Pages = {
  places: [
    { path: "/", name: "Overview", page: overviewPage },
    { path: "/sql", name: "SQL", page: sqlPage },
    { path: "/schema", name: "Schema", page: schemaPage },
    { path: "/move", name: "Move", page: movePage },
    { path: "/activity", name: "Activity", page: activityPage },
  ],
  rows: rowsPage,
  row: rowPage,
};

try {
  start(await get<Session>("/api/session"), pages);
} catch (error) {
  const { what, means, fix } = asRefused(error).problem;
  document.body.append(
    h(
      "main.alone",
      h("h1", what),
      h("p", means ?? ""),
      h("p", sentence(fix)),
      h("p.muted", "This page reconnects automatically."),
    ),
  );
  const again = setInterval(
    () =>
      void get("/api/session").then(
        () => {
          clearInterval(again);
          location.reload();
        },
        () => {},
      ),
    1000,
  );
}
