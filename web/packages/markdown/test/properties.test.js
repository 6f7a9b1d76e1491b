// What holds for every text.

import assert from "node:assert/strict";
import test from "node:test";

import fc from "fast-check";

import { Markdown, parse, TAGS, textOf } from "../dist/index.js";
import { html, policy } from "./html.js";

const MARKS = [
  "*", "**", "***", "_", "__", "~~", "~", "`", "``", "```", "\n```js\n", "\n~~~\n", "[", "]", "](", ")", "![", "<", ">", "\n> ", "\n- ",
  "\n  - ", "\n1. ", "\n2) ", "\n\n", "\n", "  \n", "\\", "\t", "\n    ", "\n# ", "\n###### ", "\n---\n", "|", "\n| ", " |\n|---|---|\n",
  "[ ] ", "[x] ", "&lt;", "&#x6a;", "&", "@", "!", '"', "'", "(", "\u202e", "\r\n", "\u0000", "🚀", "<script>", "<img src=x onerror=",
  "javascript:", "data:text/html,", "https://acme.example/", "https://evil.example/", "//", "www.", "mailto:", "a@b.example", "HTTPS:",
];

/** Texts of words `w1q`, `w2q`, … with marks between them. */
const texts = fc
  .array(fc.oneof(fc.constantFrom(...MARKS), fc.constant("word"), fc.constant(" ")), { maxLength: 60 })
  .map((pieces) => pieces.map((piece, index) => (piece === "word" ? `w${index}q` : piece)).join(""));
const anything = fc.oneof(texts, fc.string({ unit: "binary", maxLength: 200 }));

function* elements(nodes) {
  for (const node of nodes)
    if (typeof node !== "string") {
      yield node;
      yield* elements(node.children);
    }
}

test("no tag and no attribute outside the lists, and no address outside the policy", () => {
  fc.assert(
    fc.property(anything, fc.boolean(), (text, unfinished) => {
      for (const { tag, attrs } of elements(new Markdown(policy).parse(text, unfinished))) {
        assert.ok(Object.hasOwn(TAGS, tag), tag);
        for (const name of Object.keys(attrs)) assert.ok(TAGS[tag].includes(name), `${tag} ${name}`);
        if (attrs.href !== undefined) assert.match(attrs.href, /^(https:\/\/acme\.example(\/|$)|mailto:)/);
        if (attrs.src !== undefined) assert.match(attrs.src, /^https:\/\/img\.example\//);
      }
    }),
    { numRuns: 2000 },
  );
});

test("every word is there once and in its order", () => {
  const words = (text) => text.match(/w\d+q/g) ?? [];
  /** The words of a tree: those of attributes after those of the text. */
  const told = (node) =>
    Array.isArray(node)
      ? node.map(told).join(" ")
      : typeof node === "string"
        ? node
        : [textOf([node]), ...[...elements([node])].flatMap(({ attrs }) => [attrs.lang, attrs.href, attrs.src, attrs.title])].join(" ");
  fc.assert(
    fc.property(texts, (text) => {
      const found = words(told(parse(text, policy)));
      // The words after a fence's language are the one thing that is left out.
      const dropped = text.match(/(?:```|~~~)[^\n]*/g)?.flatMap(words) ?? [];
      for (const word of new Set(words(text))) {
        const count = found.filter((other) => other === word).length;
        assert.ok(count >= 1 || dropped.includes(word), `${word} of ${JSON.stringify(text)}`);
      }
    }),
    { numRuns: 2000 },
  );
});

test("a text without marks is its own text", () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: fc.constantFrom(..."abc xyz.,;é漢🚀"), minLength: 1 }), { minLength: 1 }), (lines) => {
      const clean = lines.map((line) => line.trim()).filter(Boolean);
      assert.equal(textOf(parse(clean.join("\n"), policy)), clean.join("\n"));
    }),
  );
});

test("piece by piece it is the same as at once, and what is settled stays the same object", () => {
  const cuts = fc.array(fc.nat(12), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(anything, cuts, fc.boolean(), (text, lengths, unfinished) => {
      const markdown = new Markdown(policy);
      let before = [];
      for (let at = 0, index = 0; at < text.length; index += 1) {
        at += 1 + lengths[index % lengths.length];
        const written = text.slice(0, at);
        const nodes = markdown.parse(written, unfinished);
        assert.deepEqual(nodes, new Markdown(policy).parse(written, unfinished));
        assert.deepEqual(markdown.parse(written), parse(written, policy));
        const keys = nodes.map(({ key }) => key);
        assert.equal(new Set(keys).size, keys.length);
        // All but the last two blocks of before are there, unchanged: a table can take a line of the last paragraph.
        for (const [place, node] of before.slice(0, -2).entries()) assert.deepEqual(nodes[place], node);
        before = nodes;
      }
    }),
    { numRuns: 500 },
  );
});

test("blocks that can no longer change are parsed once", () => {
  const markdown = new Markdown(policy);
  const [first, second] = markdown.parse("# one\n\ntwo\n\nthree\n");
  const again = markdown.parse("# one\n\ntwo\n\nthree\n\n- four");
  assert.ok(again[0] === first && again[1] === second);
  assert.notEqual(markdown.parse("# other")[0], first, "another text begins anew");
});

test("half-written constructs do not flicker", () => {
  const shows = (text) => html(new Markdown(policy).parse(text, true));
  const rows = [
    ["```js\nlet a", '<pre lang="js">let a</pre>'],
    ["```js\nlet a\n``", '<pre lang="js">let a</pre>'],
    ["a **bold", "<p>a <strong>bold</strong></p>"],
    ["a **bold*", "<p>a <strong>bold</strong></p>"],
    ["a `co", "<p>a <code>co</code></p>"],
    ["see [the text](https://acme.ex", "<p>see [the text](https://acme.ex</p>"],
    ["see https://acme.example/doc", "<p>see https://acme.example/doc</p>"],
    ["a\n-", "<p>a</p>"],
    ["- a\n- [", "<ul><li>a</li></ul>"],
    ["a\n\n##", "<p>a</p>"],
    ["| a | b |", "<table><thead><tr><th>a</th><th>b</th></tr></thead></table>"],
    ["| a | b |\n|-", "<table><thead><tr><th>a</th><th>b</th></tr></thead></table>"],
    ["2 * 3", "<p>2 * 3</p>"],
  ];
  for (const [text, expected] of rows) assert.equal(shows(text), expected, text);
});
