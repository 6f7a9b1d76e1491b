// How much of a page's budget the client takes: minified and compressed, as a page would load it.

import assert from "node:assert/strict";
import test from "node:test";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

async function sizeOf(contents) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: import.meta.dirname },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

test("the client is under 8 KB: streams, tokens, tickets, outbox, approvals", async (t) => {
  const size = await sizeOf('export { createClient } from "../dist/index.js"');
  t.diagnostic(`${size} bytes`);
  assert.ok(size < 8000, `${size} bytes`);
});

test("with the view, its reducer and every error class it is under 9.5 KB", async (t) => {
  const size = await sizeOf('export * from "../dist/index.js"');
  t.diagnostic(`${size} bytes`);
  assert.ok(size < 9500, `${size} bytes`);
});

test("with the client tools, the client is under 9 KB", async (t) => {
  const size = await sizeOf('export { createClient } from "../dist/index.js"; export { offersOf, runTools } from "../dist/tools.js"');
  t.diagnostic(`${size} bytes`);
  assert.ok(size < 9000, `${size} bytes`);
});

test("nothing is loaded at run time", async () => {
  const { metafile } = await build({
    entryPoints: ["index", "indexeddb", "tools"].map((name) => `${import.meta.dirname}/../dist/${name}.js`),
    bundle: true,
    write: false,
    metafile: true,
    format: "esm",
    outdir: "out",
  });
  const foreign = Object.keys(metafile.inputs).filter((path) => path.includes("node_modules"));
  assert.deepEqual(foreign, []);
});
