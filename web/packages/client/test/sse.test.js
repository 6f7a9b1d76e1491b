import assert from "node:assert/strict";
import test from "node:test";

import fc from "fast-check";

import { SseParser } from "../dist/sse.js";

const bytes = (text) => new TextEncoder().encode(text);
const parse = (...pieces) => {
  const parser = new SseParser();
  const messages = pieces.flatMap((piece) => parser.push(typeof piece === "string" ? bytes(piece) : piece));
  return { messages, id: parser.id, retry: parser.retry };
};
const message = (data, event = "message", id = "") => ({ event, data, id });

const TABLE = [
  ["LF", "data: a\n\n", [message("a")]],
  ["CRLF", "data: a\r\n\r\n", [message("a")]],
  ["CR", "data: a\r\r", [message("a")]],
  ["all three, mixed", "data: a\r\ndata: b\ndata: c\r\r\n", [message("a\nb\nc")]],
  ["a byte order mark", "\ufeffdata: a\n\n", [message("a")]],
  ["a byte order mark in the middle is text", "data: a\n\ndata: \ufeff\n\n", [message("a"), message("\ufeff")]],
  ["comments", ": hello\n\n:\n: data: x\ndata: a\n\n", [message("a")]],
  ["one space is dropped, no more", "data:a\n\ndata:  b\n\n", [message("a"), message(" b")]],
  ["a name without a colon", "data\n\n", [message("")]],
  ["a value with colons", "data: a: b\n\n", [message("a: b")]],
  ["unknown names", "foo: bar\ndata: a\n\n", [message("a")]],
  ["a type is for one event", "event: x\ndata: a\n\ndata: b\n\n", [message("a", "x"), message("b")]],
  ["a type without data", "event: x\n\ndata: b\n\n", [message("b")]],
  ["an id stays", "id: 7\ndata: a\n\ndata: b\n\n", [message("a", "message", "7"), message("b", "message", "7")]],
  ["an id with NUL is ignored", "id: 7\n\nid: 8\0\ndata: a\n\n", [message("a", "message", "7")]],
  ["what is not ended by an empty line is dropped", "data: a\n\ndata: b\n", [message("a")]],
  ["other line ends of Unicode are text", "data: a\u2028b\u0085c\n\n", [message("a\u2028b\u0085c")]],
];

for (const [name, input, expected] of TABLE) {
  test(`parses ${name}`, () => {
    const single = Array.from(bytes(input), (byte) => Uint8Array.of(byte));
    assert.deepEqual(parse(input).messages, expected);
    assert.deepEqual(parse(...single).messages, expected, "byte by byte");
  });
}

test("commits an id with its block only", () => {
  assert.equal(parse("id: 1\n\nid: 2\n").id, "1");
  assert.equal(parse("id: 1.5~mac\n\n").id, "1.5~mac");
  assert.deepEqual(parse("id: 1\n\n").messages, []);
});

test("reads retry if it is a number", () => {
  assert.equal(parse("retry: 2000\n\n").retry, 2000);
  assert.equal(parse("retry: 2s\n\n").retry, undefined);
  assert.equal(parse("retry: 5\nretry: -1\n").retry, 5);
});

test("replaces invalid UTF-8, and goes on", () => {
  assert.deepEqual(parse(Uint8Array.of(...bytes("data: a"), 0xff, ...bytes("b\n\n"))).messages, [message("a\ufffdb")]);
});

test("any split into pieces gives the same events", () => {
  const line = fc.oneof(
    fc.constantFrom("data", "data:", "event: x", "id: 1", "id", ": comment", "retry: 3", "", ""),
    fc.string({ unit: "grapheme", maxLength: 8 }).map((text) => `data: ${text.replace(/[\r\n]/g, "")}`),
  );
  const stream = fc.array(fc.tuple(line, fc.constantFrom("\n", "\r\n", "\r")), { maxLength: 30 });
  fc.assert(
    fc.property(stream, fc.array(fc.nat(7)), (lines, cuts) => {
      const whole = bytes(`\ufeff${lines.map(([text, end]) => text + end).join("")}\n\n`);
      const pieces = [];
      let at = 0;
      for (const cut of cuts) pieces.push(whole.slice(at, (at += cut)));
      pieces.push(whole.slice(at));
      assert.deepEqual(parse(...pieces), parse(whole));
    }),
    { numRuns: 500 },
  );
});

test("a long line in many pieces takes linear time and is bounded", () => {
  const parser = new SseParser();
  const piece = bytes("x".repeat(64 * 1024));
  parser.push(bytes("data: "));
  assert.throws(() => {
    for (let i = 0; i < 2000; i++) parser.push(piece);
  }, RangeError);
});

test("comments are not counted as an event's text", () => {
  const parser = new SseParser();
  const comment = bytes(`: ${"x".repeat(1024 * 1024)}\n`);
  for (let i = 0; i < 70; i++) parser.push(comment);
  assert.deepEqual(parser.push(bytes("data: a\n\n")), [message("a")]);
});
