// Bundle src/ into the package's static folder, with the licenses of the bundled libraries and the digests that a test compares.

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../src/tatame_db/studio/static");
const digest = (content) => createHash("sha256").update(content).digest("hex");

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const result = await build({
  absWorkingDir: here,
  entryPoints: { studio: "src/main.ts" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});
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
const files = readdirSync(out).sort();
const of = (folder, names) => Object.fromEntries(names.map((name) => [name, digest(readFileSync(join(folder, name)))]));
writeFileSync(
  join(out, "build.json"),
  `${JSON.stringify({ sources: of(here, sources), files: of(out, files) }, null, 1)}\n`,
);
