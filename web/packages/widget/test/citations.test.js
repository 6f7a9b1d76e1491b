import assert from "node:assert/strict";
import test from "node:test";

import fc from "fast-check";

import { mark, split } from "../dist/citations.js";

test("numbers stand behind their sentences, also after letters of several bytes", () => {
  const text = "Grüße. 日本. End";
  const at = (part) => new TextEncoder().encode(text.slice(0, text.indexOf(part) + part.length)).length;
  const marked = mark(text, [{ at: at("日本.") }, { at: at("Grüße.") }, {}]);
  assert.deepEqual(split(marked), ["Grüße.", 1, " 日本.", 0, " End"]);
});

test("the text stays what it was, wherever sources are said to be, and whatever it holds", () => {
  const offset = fc.option(fc.integer({ min: -5, max: 200 }), { nil: undefined });
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.array(offset, { maxLength: 8 }), (raw, places) => {
      const text = raw.replace(/[\ue100-\ue1c7]/g, "").toWellFormed();
      const parts = split(mark(text, places.map((at) => ({ at }))));
      const words = parts.filter((part) => typeof part === "string").join("");
      const isWhole = places.every((at) => at === undefined || isBoundary(text, at));
      if (isWhole) assert.equal(words, text);
      const numbers = parts.filter((part) => typeof part === "number");
      assert.equal(numbers.length, places.filter((at) => at !== undefined).length);
    }),
  );
});

/** Whether an offset in bytes is between two characters. */
function isBoundary(text, at) {
  const bytes = new TextEncoder().encode(text);
  return at <= 0 || at >= bytes.length || (bytes[at] & 0xc0) !== 0x80;
}

test("a text cannot bring numbers of its own", () => {
  assert.equal(mark("a\ue100b", []), "ab");
  assert.equal(split(mark("a\ue101b", [{ at: 1 }])).filter((part) => part === 1).length, 0);
});
