// How much of a page's budget the widget takes, compressed as a server or a proxy in front of it sends it.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execFileSync } from "node:child_process";
import test from "node:test";
import { gzipSync } from "node:zlib";

const build = new URL("../../../build.mjs", import.meta.url).pathname;

test("the loader is at most 4,000 bytes, and all that a page loads at most 40,000, in the largest language", (t) => {
  const out = mkdtempSync(join(tmpdir(), "copilotd-widget-"));
  try {
    execFileSync(process.execPath, [build, out]);
    const files = readdirSync(join(out, "widget")).filter((name) => name.endsWith(".js"));
    const sizeOf = (name) => gzipSync(readFileSync(join(out, "widget", name)), { level: 9 }).length;
    const sizes = Object.fromEntries(files.map((name) => [name.split("-")[0], sizeOf(name)]));
    t.diagnostic(JSON.stringify(sizes));
    const { app, "widget.js": loader, ...languages } = sizes;
    assert.deepEqual(Object.keys(languages), ["ar", "de", "en", "ja"], "nothing else is loaded");
    assert.ok(loader <= 4000, `${loader} bytes`);
    const all = loader + app + Math.max(...Object.values(languages));
    t.diagnostic(`${all} bytes`);
    assert.ok(all <= 40_000, `${all} bytes`);
  } finally {
    rmSync(out, { recursive: true });
  }
});

test("nothing makes HTML or code from text, and nothing is loaded from elsewhere", () => {
  const sources = new URL("../src/", import.meta.url);
  for (const name of readdirSync(sources, { recursive: true })) {
    if (!/\.(tsx?|css)$/.test(name)) continue;
    const text = readFileSync(new URL(name, sources), "utf8");
    assert.doesNotMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|@import| url\(/, name);
  }
});
