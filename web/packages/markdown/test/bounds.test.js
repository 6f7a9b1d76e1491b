// Texts that are made to be expensive, and the size of the code.

import assert from "node:assert/strict";
import test from "node:test";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

import { MAX_ELEMENTS, MAX_LENGTH, Markdown, parse, textOf } from "../dist/index.js";
import { policy } from "./html.js";

/** Texts of about a length. */
const HOSTILE = {
  brackets: (n) => "[".repeat(n),
  "closing brackets": (n) => "[".repeat(n / 2) + "]".repeat(n / 2),
  stars: (n) => "*".repeat(n),
  "stars and letters": (n) => "*a ".repeat(n / 3),
  "stars and underscores": (n) => "*a_".repeat(n / 3),
  "runs of every length": (n) => "a**b*c***d__e_".repeat(n / 14),
  "nested emphasis": (n) => "*a ".repeat(n / 6) + " a*".repeat(n / 6),
  quotes: (n) => `${"> ".repeat(n / 2)}a`,
  "lines of quotes": (n) => `${"> ".repeat(50)}a\n`.repeat(n / 100),
  backticks: (n) => Array.from({ length: Math.sqrt(2 * n) }, (_, length) => `${"`".repeat(length)}a`).join(""),
  links: (n) => "[a](".repeat(n / 4),
  "links with titles": (n) => '[a](b "'.repeat(n / 7),
  "links in links": (n) => "[".repeat(n / 8) + "a](b)".repeat(n / 8),
  images: (n) => "![".repeat(n / 2),
  "images around links": (n) => `${"![".repeat(n / 8)}${"[a](b)".repeat(n / 8)}`,
  "angle brackets": (n) => "<a:".repeat(n / 3),
  comments: (n) => "<!--".repeat(n / 4),
  ampersands: (n) => "&#".repeat(n / 2),
  addresses: (n) => "www.".repeat(n / 4),
  schemes: (n) => "https://".repeat(n / 8),
  parentheses: (n) => `https://a.example/${")".repeat(n)}`,
  mails: (n) => "a@".repeat(n / 2),
  "long names": (n) => `${"a.".repeat(n / 2)}@b.example`,
  "nested lists": (n) => Array.from({ length: Math.sqrt(n) }, (_, depth) => `${" ".repeat(depth * 2)}- a`).join("\n"),
  "markers on a line": (n) => "- ".repeat(n / 2),
  items: (n) => "- a\n".repeat(n / 4),
  "empty lines in a list": (n) => `- a\n${"\n".repeat(n)}b`,
  columns: (n) => `${"|a".repeat(n / 4)}|\n${"|-".repeat(n / 4)}|`,
  rows: (n) => `|a|\n|-|\n${"a\n".repeat(n / 2)}`,
  "wide rows": (n) => `${"|a".repeat(60)}|\n${"|-".repeat(60)}|\n${"|\n".repeat(n / 2)}`,
  spaces: (n) => `a${" ".repeat(n)}b`,
  lines: (n) => "a \n".repeat(n / 3),
  tildes: (n) => "~~a".repeat(n / 3),
  dashes: (n) => `${"- ".repeat(n / 2)}a`,
  hashes: (n) => `# ${"# ".repeat(n / 2)}a`,
  backslashes: (n) => "\\".repeat(n),
  delimiters: (n) => `|a|\n${"|-".repeat(n / 2)}`,
};

/** The processor's time in milliseconds, the least of three: how busy the machine is must not count. */
function timeOf(work) {
  const times = [0, 1, 2].map(() => {
    const begun = process.cpuUsage();
    work();
    const { user } = process.cpuUsage(begun);
    return user / 1000;
  });
  return Math.min(...times);
}

/** Elements, and how deep they are nested. */
function measured(nodes) {
  let [count, deepest] = [0, 0];
  const rest = nodes.map((node) => [node, 1]);
  for (let next; (next = rest.pop()); ) {
    const [node, depth] = next;
    if (typeof node === "string") continue;
    count += 1;
    deepest = Math.max(deepest, depth);
    for (const child of node.children) rest.push([child, depth + 1]);
  }
  return { count, deepest };
}

for (const [name, make] of Object.entries(HOSTILE))
  test(`bounded: ${name}`, () => {
    const [small, large] = [make(10_000), make(40_000)];
    // Four times the text. Linear work takes four times as long, quadratic work sixteen; below 10 ms all is noise.
    const [short, long] = [timeOf(() => parse(small, policy)), timeOf(() => parse(large, policy))];
    assert.ok(long < 10 * Math.max(short, 10), `${short.toFixed(1)} ms, then ${long.toFixed(1)} ms`);
    for (const unfinished of [false, true]) {
      const { count, deepest } = measured(new Markdown(policy).parse(large, unfinished));
      assert.ok(count <= MAX_ELEMENTS + 100, `${count} elements`);
      assert.ok(deepest <= 60, `${deepest} deep`);
    }
  });

test("what is too long for Markdown is text, and none is lost", () => {
  const text = `${"*a* b\n\n".repeat(MAX_LENGTH / 7)}*the end*`;
  const nodes = parse(`${text}${text}`, policy);
  assert.ok(textOf(nodes).endsWith("*the end*"));
  const plain = "word ".repeat(MAX_LENGTH / 4);
  const letters = (text) => text.replaceAll(/\s/g, "").length;
  assert.equal(letters(textOf(parse(plain, policy))), letters(plain));
  assert.ok(measured(nodes).count <= MAX_ELEMENTS + 100);
});

test("a message that streams in is not parsed again and again", () => {
  const text = "A *paragraph* of an answer, with `code` and more.\n\n".repeat(1000);
  const stream = (length) => () => {
    const markdown = new Markdown(policy);
    for (let at = 0; at < length; at += 50) markdown.parse(text.slice(0, at), true);
  };
  const [short, long] = [timeOf(stream(12_500)), timeOf(stream(50_000))];
  assert.ok(long < 10 * Math.max(short, 10), `${short.toFixed(1)} ms, then ${long.toFixed(1)} ms`);
});

test("it is under 8 KB compressed and has no dependencies", async (t) => {
  const { outputFiles, metafile } = await build({
    entryPoints: [`${import.meta.dirname}/../dist/index.js`],
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: "esm",
    target: "es2022",
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  t.diagnostic(`${size} bytes`);
  assert.ok(size < 8000, `${size} bytes`);
  assert.deepEqual(Object.keys(metafile.inputs).filter((path) => path.includes("node_modules")), []);
});
