import assert from "node:assert/strict";
import { test } from "node:test";

import { Changes } from "../src/vendors/feed.js";
import { parts } from "../src/vendors/mrkdwn.js";
import { threads } from "../src/vendors/threads.js";

test("what is new or differs is found, but nothing at the first look", () => {
  const changes = new Changes();
  const look = (...items) => [...changes.of(items, ({ id }) => id)];
  assert.deepEqual(look({ id: 1, text: "a" }, { id: 2, text: "b" }), []);
  assert.deepEqual(look({ id: 1, text: "a" }, { id: 2, text: "b" }), []);
  assert.deepEqual(look({ id: 3, text: "c" }, { id: 1, text: "a" }, { id: 2, text: "B" }), [3, 2]);
  assert.deepEqual(look({ id: 1, text: "a" }), []);
  changes.clear();
  assert.deepEqual(look({ id: 9, text: "of another account" }), []);
});

test("replies stand below their message, and a reply without it for itself", () => {
  const messages = [
    { ts: "1", thread_ts: null },
    { ts: "2", thread_ts: "1" },
    { ts: "3", thread_ts: "3" },
    { ts: "4", thread_ts: "0" },
    { ts: "5", thread_ts: "1" },
  ];
  const found = threads(messages).map(({ ts, replies }) => [ts, replies.map((reply) => reply.ts)]);
  assert.deepEqual(found, [
    ["1", ["2", "5"]],
    ["3", []],
    ["4", []],
  ]);
});

test("Slack's markup becomes parts, and links are http or https only", () => {
  for (const [text, expected] of [
    ["plain", ["plain"]],
    ["", []],
    ["a *b* _c_ `d`", ["a ", { kind: "strong", text: "b" }, " ", { kind: "em", text: "c" }, " ", { kind: "code", text: "d" }]],
    ["2*3*4 and snake_case_name", ["2*3*4 and snake_case_name"]],
    ["<https://example.com/?a=1&amp;b=2|here>", [{ kind: "link", href: "https://example.com/?a=1&b=2", text: "here" }]],
    ["<https://example.com/>", [{ kind: "link", href: "https://example.com/", text: "https://example.com/" }]],
    ["<javascript:alert(1)|here>", ["<javascript:alert(1)|here>"]],
    ["<!channel|everyone> and <@U1>", ["everyone", " and ", "<@U1>"]],
    ["&lt;img src=x onerror=alert(1)&gt; &amp;amp;", ["<img src=x onerror=alert(1)> &amp;"]],
  ])
    assert.deepEqual(parts(text), expected, text);
});
