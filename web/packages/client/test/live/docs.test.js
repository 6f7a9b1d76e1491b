// The examples of docs/integrate/client.md, in their order, as one module.

import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import test, { after, before } from "node:test";
import { pathToFileURL } from "node:url";

import { Demo } from "./world.js";

const docs = process.env.COPILOTD_DOCS ?? resolve(import.meta.dirname, "../../../../../docs");
const demo = new Demo();
before(() => demo.start());
after(() => demo.stop());

/** `localStorage`, as far as the client uses it. */
function storage() {
  const map = new Map();
  return {
    get length() {
      return map.size;
    },
    key: (index) => [...map.keys()][index] ?? null,
    getItem: (key) => map.get(key) ?? null,
    setItem: (key, value) => void map.set(key, value),
    removeItem: (key) => void map.delete(key),
  };
}

test("the guide's examples run as they stand", async () => {
  const guide = readFileSync(join(docs, "integrate/client.md"), "utf8");
  const examples = [...guide.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code);
  assert.equal(examples.length, 10, "a new example is counted here");
  const said = [];
  globalThis.localStorage = storage();
  globalThis.fetchUserToken = async () => demo.token;
  globalThis.say = (...words) => said.push(words);
  // Beside the package, so that it finds itself by its name.
  const file = join(import.meta.dirname, "examples.generated.mjs");
  const code = examples.join("\n").replaceAll("https://copilotd.example.com", demo.url).replaceAll("console.log", "say");
  writeFileSync(file, `${code}\nexport { answer, copy, entry, position, request, text };\n`);
  try {
    const { answer, copy, entry, position, request, text } = await import(pathToFileURL(file));
    assert.ok(answer.length > 10);
    assert.ok(text.endsWith(answer));
    assert.equal(copy, "total: 42 EUR");
    assert.match(position, /^\d+/);
    assert.equal(entry.body.input, "And which are urgent?");
    assert.equal((await request.get()).status, "completed");
    assert.ok(said.some(([first]) => first === "zendesk_create_ticket"), "the approval was asked for");
    assert.ok(said.some(([status]) => status === "live"), "the view was drawn");
    assert.equal(said.at(-1)[0], "Not found");
  } finally {
    rmSync(file, { force: true });
  }
});
