// Builds what the binary embeds: web/dist, or another directory that is named.
//
//   node build.mjs [DIRECTORY]
//
// The same sources give the same bytes on every machine: the bundler's version is fixed, and nothing that is written
// depends on a time, a path outside web/ or the order of a directory's entries.

import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const root = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(root, "dist"));

/** What is built of each package: entry points are bundled, each into one file of its name; the rest is copied. */
const PACKAGES = {
  demo: { bundle: ["demo.js", "demo.css"], copy: ["index.html", "icon.svg"] },
};

/** Builds one package into a directory of its name. */
async function buildPackage(name, { bundle, copy }) {
  const sources = join(root, "packages", name, "src");
  const into = join(out, name);
  await build({
    absWorkingDir: root,
    entryPoints: bundle.map((file) => join(sources, file)),
    outdir: into,
    bundle: true,
    format: "esm",
    target: "es2022",
    charset: "utf8",
    // Not minified: what is committed can be read in a review, and these pages are served on the machine that shows them.
    minify: false,
    logLevel: "warning",
  });
  for (const file of copy) await copyFile(join(sources, file), join(into, file));
}

/** Lists the files below a directory, sorted by path. */
async function files(directory) {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)).split(sep).join("/"))
    .sort();
}

/** Writes the hash of every file, in the form that `sha256sum --check` reads. */
async function writeHashes() {
  let lines = "";
  for (const path of await files(out)) {
    const content = await readFile(join(out, path));
    lines += `${createHash("sha256").update(content).digest("hex")}  ${path}\n`;
  }
  await writeFile(join(out, "SHA256SUMS"), lines);
}

// What an earlier build left must not be listed.
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
for (const [name, parts] of Object.entries(PACKAGES)) await buildPackage(name, parts);
await writeHashes();
