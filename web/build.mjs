// Builds what the binary embeds: web/dist, or another directory that is named.
//
//   node build.mjs [DIRECTORY]
//
// The same sources give the same bytes on every machine: the bundler's version is fixed, and nothing that is written
// depends on a time, a path outside web/ or the order of a directory's entries.

import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

import { build, transform } from "esbuild";
import { minify } from "terser";

const root = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(root, "dist"));

/** What is built of each package: entry points are bundled, each into one file of its name; the rest is copied. */
const PACKAGES = {
  demo: { bundle: ["demo.js", "demo.css"], copy: ["index.html", "icon.svg"] },
};

/** Where the packages are that others import: their own dist/ is not committed, and may not be there yet. */
const SOURCES = Object.fromEntries(
  [["client"], ["client", "parts"], ["markdown"]].map(([name, part]) => [
    ["@copilotd", name, part].filter(Boolean).join("/"),
    join(root, "packages", name, "src", `${part ?? "index"}.ts`),
  ]),
);

/** What stands in the place of Preact in the widget, whose budget it would exceed. */
const DOM = Object.fromEntries(
  Object.entries({ preact: "tree", "preact/hooks": "hooks", "preact/jsx-runtime": "jsx" }).map(([name, file]) => [
    name,
    join(root, "packages", "widget", "src", "dom", `${file}.ts`),
  ]),
);

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
    alias: SOURCES,
    // Not minified: what is committed can be read in a review, and these pages are served on the machine that shows them.
    minify: false,
    logLevel: "warning",
    metafile: true,
  }).then(note);
  for (const file of copy) await copyFile(join(sources, file), join(into, file));
}

/** Packages of others whose code is in what is built, by name. */
const bundled = new Set();

/** Notes the packages that a build took files from; returns the build. */
function note(built) {
  for (const path of Object.keys(built.metafile.inputs)) {
    const name = /(?:^|\/)node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
    if (name) bundled.add(name);
  }
  return built;
}

/** The text of a style sheet in place of its import, for sheets that a script makes. */
const styles = {
  name: "styles",
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, "utf8"), { loader: "css", minify: true, charset: "utf8" });
      return { contents: code.trim(), loader: "text" };
    });
  },
};

/** Makes a script smaller than the bundler does: by a thirtieth, which is a kilobyte of the widget's budget. */
async function smaller(text, isModule) {
  const compress = { ecma: 2020, passes: 3, unsafe_arrows: true };
  const { code } = await minify(text, { module: isModule, compress, mangle: true, format: { comments: false } });
  return `${code}\n`;
}

/**
 * Builds the widget: a loader, which knows the name of the app, the app, and a file for each language. Minified: every
 * page of a host loads it.
 */
async function buildWidget() {
  const sources = join(root, "packages", "widget", "src");
  const into = join(out, "widget");
  const common = {
    absWorkingDir: root,
    outdir: into,
    bundle: true,
    write: false,
    target: "es2022",
    charset: "utf8",
    minify: true,
    legalComments: "none",
    jsx: "automatic",
    jsxImportSource: "preact",
    alias: { ...SOURCES, ...DOM },
    plugins: [styles],
    logLevel: "warning",
    metafile: true,
  };
  const app = note(await build({
    ...common,
    entryPoints: [join(sources, "app.tsx")],
    format: "esm",
    splitting: true,
    entryNames: "[name]-[hash]",
    chunkNames: "[name]-[hash]",
    // Part of what is hashed: other versions write other bytes, which must not have the same name.
    banner: { js: `// ${(await manifestOf("terser")).version}` },
  }));
  const name = basename(app.outputFiles.find(({ path }) => basename(path).startsWith("app-")).path);
  const loader = note(await build({
    ...common,
    entryPoints: { widget: join(sources, "loader.ts") },
    format: "iife",
    define: { APP_PATH: JSON.stringify(`/widget/${name}`) },
  }));
  await mkdir(into, { recursive: true });
  for (const { path, text } of app.outputFiles) await writeFile(path, await smaller(text, true));
  for (const { path, text } of loader.outputFiles) await writeFile(path, await smaller(text, false));
}

/** The `package.json` of an installed package. */
async function manifestOf(name) {
  return JSON.parse(await readFile(join(root, "node_modules", name, "package.json"), "utf8"));
}

/**
 * Writes what others wrote of all this: their licences, which the widget serves, and a list in the form of the bill of
 * materials (CycloneDX), for what is shipped.
 */
async function writeBundled() {
  const components = [];
  const licences = [];
  for (const name of [...bundled].sort()) {
    const { version, license, homepage } = await manifestOf(name);
    const licence = await readFile(join(root, "node_modules", name, "LICENSE"), "utf8");
    const purl = `pkg:npm/${name.replace("@", "%40")}@${version}`;
    components.push({ type: "library", "bom-ref": purl, name, version, licenses: [{ license: { id: license } }], purl });
    licences.push(`${name} ${version}${homepage ? ` (${homepage})` : ""}\n\n${licence}`);
  }
  await writeFile(join(out, "components.json"), `${JSON.stringify(components, null, 2)}\n`);
  const none = "These files contain no code of other packages.\n";
  await writeFile(join(out, "widget", "licenses.txt"), licences.join("\n\n") || none);
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
await buildWidget();
await writeBundled();
await writeHashes();
