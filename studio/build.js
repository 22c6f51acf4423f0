// Bundle src/ into the package's static folder, with the licenses of the bundled libraries and the digests that a test compares.

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../src/tatame_db/studio/static");
const digest = (content) => createHash("sha256").update(content).digest("hex");

// The frame is loaded at the start. Each of these pages is loaded when it is first shown, the grid of a result with the
// first result.
const PAGES = {
  result: "src/pages/sql/result-grid.ts",
  row: "src/pages/row/page.ts",
  rows: "src/pages/rows/page.ts",
  sql: "src/pages/sql/page.ts",
  schema: "src/pages/schema/page.ts",
};

// A page runs inside the frame. If it imports the frame too, all that both use is in one file, and not in one for each
// set of pages that use it.
const insideTheFrame = {
  name: "inside the frame",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\/(page|result-grid)\.ts$/ }, ({ path }) => {
      const isPage = Object.values(PAGES).some((page) => join(here, page) === path);
      const frame = isPage ? `import ${JSON.stringify(join(here, "src/shell.ts"))};\n` : "";
      return { contents: frame + readFileSync(path, "utf8"), loader: "ts" };
    }),
};

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const result = await build({
  absWorkingDir: here,
  entryPoints: { studio: "src/main.ts", ...PAGES },
  outdir: out,
  bundle: true,
  splitting: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
  plugins: [insideTheFrame],
});

// The files of each page: its own, and those that they import.
const outputs = Object.fromEntries(
  Object.entries(result.metafile.outputs).map(([path, output]) => [
    basename(path),
    output.imports.filter(({ kind }) => kind === "import-statement").map(({ path }) => basename(path)),
  ]),
);
const filesOf = (name, found = new Set()) => {
  if (!found.has(name)) for (const file of found.add(name) && outputs[name]) filesOf(file, found);
  return [...found];
};
const files = Object.fromEntries(["studio", ...Object.keys(PAGES)].map((page) => [page, filesOf(`${page}.js`)]));

// A file that several pages share has their names, because a digest in the name would change with each build.
const shared = Object.keys(outputs).filter((name) => name.startsWith("chunk-"));
const sharedName = (chunk) => {
  const users = Object.keys(files).filter((page) => files[page].includes(chunk));
  return users.length === Object.keys(files).length ? "frame.js" : `${users.join("-")}.js`;
};
const names = Object.fromEntries(shared.map((chunk) => [chunk, sharedName(chunk)]));
const renamed = (text) => text.replace(/chunk-[A-Z0-9]{8}\.js/g, (chunk) => names[chunk] ?? chunk);
for (const name of Object.keys(outputs).filter((name) => name.endsWith(".js"))) {
  writeFileSync(join(out, name), renamed(readFileSync(join(out, name), "utf8")));
  if (names[name]) renameSync(join(out, name), join(out, names[name]));
}

for (const name of ["index.html", "icon.svg"]) cpSync(join(here, "src", name), join(out, name));

const packages = new Set(
  Object.keys(result.metafile.inputs).flatMap((path) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1] ?? []),
);
const licenses = [...packages].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const texts = readdirSync(folder)
    .filter((file) => /^licen[cs]e/i.test(file))
    .map((file) => join(folder, file));
  // dagre's build includes graphlib, whose license is in a separate file.
  const legal = join(folder, "dist/dagre.esm.js.LEGAL.txt");
  if (existsSync(legal)) texts.push(legal);
  if (!texts.length) throw new Error(`${name} has no license text`);
  return `${name} ${version} (${license})\n\n${texts.map((file) => readFileSync(file, "utf8").trim()).join("\n\n")}\n`;
});
writeFileSync(join(out, "licenses.txt"), licenses.join(`\n${"-".repeat(100)}\n\n`));

const sources = ["build.js", "package.json", "package-lock.json", "tsconfig.json"]
  .concat(
    readdirSync(join(here, "src"), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(here, join(entry.parentPath, entry.name))),
  )
  .sort();
const of = (folder, paths) => Object.fromEntries(paths.map((path) => [path, digest(readFileSync(join(folder, path)))]));
const pages = Object.fromEntries(Object.entries(files).map(([page, found]) => [page, found.map(renamed).sort()]));
const built = { pages, sources: of(here, sources), files: of(out, readdirSync(out).sort()) };
writeFileSync(join(out, "build.json"), `${JSON.stringify(built, null, 1)}\n`);
