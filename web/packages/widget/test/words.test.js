// What a user reads: sentences in every language, whatever the server says.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { argumentsOf, fieldsOf, wrongFields } from "../dist/edits.js";
import { available, languageOf, load } from "../dist/language.js";
import { policyOf } from "../dist/policy.js";
import { sentenceFor, sentenceOf, wordsOf } from "../dist/problems.js";

const LANGUAGES = ["ar", "de", "en", "ja"];
const schema = readFileSync(new URL("../../client/src/schema.ts", import.meta.url), "utf8");

test("every language has every text, with the same variables", async () => {
  const en = await load("en");
  const variables = (text) => (text.match(/\{\w+\}/g) ?? []).sort();
  for (const language of LANGUAGES) {
    const texts = await load(language);
    assert.deepEqual(Object.keys(texts), Object.keys(en), language);
    for (const [name, text] of Object.entries(texts)) {
      assert.ok(text.trim(), `${language} ${name}`);
      assert.deepEqual(variables(text), variables(en[name]), `${language} ${name}`);
    }
  }
});

test("every code has its own sentence", async () => {
  const texts = await load("en");
  const { text } = languageOf("en", null, null, texts);
  const failed = schema.slice(schema.indexOf("export interface TurnFailedEvent"));
  const problem = schema.slice(schema.indexOf("export interface Problem {"));
  const codesOf = (declared) => declared.slice(0, declared.indexOf(";\n", declared.indexOf(" code:"))).match(/"[a-z_]+"/g);
  const codes = [...codesOf(failed), ...codesOf(problem)].map((quoted) => quoted.slice(1, -1));
  assert.ok(codes.length >= 35, `${codes.length}`);
  // Mistakes of a program, which no user can make or mend.
  const general = new Set(["internal", "idempotency_key_reused", "method_not_allowed", "not_acceptable", "not_resumable"]);
  for (const code of codes) {
    const { words } = wordsOf(sentenceFor(code), text);
    assert.equal(words === texts.error_internal, general.has(code), code);
  }
});

test("an unknown error is told with its reference, a known one without", async () => {
  const { text } = languageOf("en", null, null, await load("en"));
  const said = (error) => wordsOf(sentenceOf(error), text);
  const general = text("error_internal");
  assert.deepEqual(said({ code: "teapot", requestId: "req_1" }), { words: general, id: "req_1" });
  for (const error of [{ code: "constructor" }, { code: 7 }, new Error("no"), undefined, null, "no"]) {
    assert.deepEqual(said(error), { words: general, id: undefined });
  }
  assert.deepEqual(said({ code: "not_found", requestId: "req_1" }), { words: "This is not there any more." });
  assert.deepEqual(wordsOf(sentenceFor("internal", "turn_1"), text), { words: general, id: "turn_1" });
});

test("languages, directions and the host's own words", async () => {
  const texts = await load("en");
  for (const [wanted, dir, own, lang, expected] of [
    ["de-AT", null, null, "de-AT", "ltr"],
    ["ar", null, null, "ar", "rtl"],
    ["ar-EG", "ltr", null, "ar-EG", "ltr"],
    ["en", "rtl", null, "en", "rtl"],
    // Not ours: English, from left to right.
    ["he", null, null, "en", "ltr"],
    ["he", null, { title: "עוזר" }, "he", "rtl"],
    ["", null, null, "en", "ltr"],
    ["constructor", null, null, "en", "ltr"],
  ]) {
    const language = languageOf(wanted, dir, own, texts);
    assert.deepEqual([language.lang, language.dir], [lang, expected], wanted);
    assert.ok(LANGUAGES.includes(available(wanted)));
  }
  const own = languageOf("en", null, { title: "Ask Acme", "tool:crm_find": "Looking at customers" }, texts);
  assert.equal(own.text("title"), "Ask Acme");
  assert.equal(own.tool("crm_find"), "Looking at customers");
  assert.equal(own.tool("zendesk_create_ticket"), "Zendesk: create ticket");
  assert.equal(own.tool("constructor"), "Constructor");
  assert.equal(own.text("source", { n: 3 }), "Source 3");
  assert.equal(own.date("nonsense"), "");
});

test("edited arguments keep their types, and say which of them is wrong", () => {
  const fields = fieldsOf({ subject: "a", count: 3, tags: ["x"] });
  assert.deepEqual(argumentsOf(fields), { values: { subject: "a", count: 3, tags: ["x"] } });
  const edit = (name, text) => fields.map((field) => (field.name === name ? { ...field, text } : field));
  assert.deepEqual(argumentsOf(edit("subject", "7")), { values: { subject: "7", count: 3, tags: ["x"] } });
  assert.deepEqual(argumentsOf(edit("count", "4")), { values: { subject: "a", count: 4, tags: ["x"] } });
  assert.deepEqual(argumentsOf(edit("count", "many")), { wrong: "count" });
  assert.deepEqual(fieldsOf("not an object"), []);
  assert.deepEqual(wrongFields([{ pointer: "/arguments/count" }, { pointer: "/other" }, {}], fields), ["count"]);
  // A name that every object has is an argument like others.
  const { values } = argumentsOf([{ name: "__proto__", text: "x", isText: true }]);
  assert.deepEqual(Object.keys(values), ["__proto__"]);
});

test("links and images follow the policy", () => {
  const own = ["https://app.acme.example", "https://copilot.acme.example"];
  const unset = policyOf(null, null, own);
  const listed = policyOf(["https://help.acme.example"], ["https://img.acme.example"], own);
  const all = policyOf(["*"], null, own);
  for (const [address, ...expected] of [
    // A link with nothing set, with the list, with "*"; an image with nothing set, with the list.
    ["https://app.acme.example/a", true, true, true, true, true],
    ["https://copilot.acme.example/a", true, true, true, true, true],
    ["https://help.acme.example/a", false, true, true, false, false],
    ["https://img.acme.example/a.png", false, false, true, false, true],
    ["https://evil.example/", false, false, true, false, false],
    ["http://help.acme.example/", false, false, false, false, false],
    ["mailto:a@acme.example", true, true, true, false, false],
    ["javascript:alert(1)", false, false, false, false, false],
    ["data:text/html,x", false, false, false, false, false],
  ]) {
    const url = new URL(address);
    const links = [unset, listed, all].map((policy) => policy.links(url));
    assert.deepEqual([...links, unset.images(url), listed.images(url)], expected, address);
  }
});
