import assert from "node:assert/strict";
import test from "node:test";

import { isBusy, outgoingOf, REF, rowsOf } from "../dist/rows.js";

const turn = (id, more = {}) => ({ id, seq: 1, input: "hi", metadata: {}, status: "completed", items: [], replacedBy: null, ...more });
const entry = (key, more = {}) => ({
  key,
  status: "sending",
  conversationId: "conv_1",
  turnId: null,
  body: { input: "hi", metadata: { [REF]: key } },
  ...more,
});
const all = () => true;

test("a message is shown once: as itself until its turn is there", () => {
  for (const [name, turns, entries, expected] of [
    ["on its way", [], [entry("a")], ["a"]],
    ["accepted, and not in the stream yet", [], [entry("a", { status: "sent", turnId: "turn_1" })], ["a"]],
    ["accepted and in the stream", [turn("turn_1")], [entry("a", { status: "sent", turnId: "turn_1" })], []],
    ["in the stream before the request was answered", [turn("turn_1", { metadata: { [REF]: "a" } })], [entry("a")], []],
    ["another message's turn", [turn("turn_1", { metadata: { [REF]: "b" } })], [entry("a")], ["a"]],
    ["turns of other clients have no mark", [turn("turn_1")], [entry("a", { body: { input: "hi" } })], ["a"]],
  ]) {
    const shown = outgoingOf({ turns }, entries, all).map(({ key }) => key);
    assert.deepEqual(shown, expected, name);
  }
  assert.deepEqual(outgoingOf({ turns: [] }, [entry("a")], () => false), [], "another conversation's");
});

test("the composer is locked while an answer is on its way", () => {
  for (const [turns, entries, expected] of [
    [[], [], false],
    [[turn("a")], [], false],
    [[turn("a", { status: "failed" }), turn("b", { status: "cancelled" })], [], false],
    [[turn("a", { status: "running" })], [], true],
    [[turn("a", { status: "queued" })], [], true],
    [[turn("a", { status: "awaiting_approval" })], [], true],
    [[], [entry("a")], true],
    [[], [entry("a", { status: "queued" })], true],
    [[], [entry("a", { status: "failed" })], false],
  ]) {
    assert.equal(isBusy({ turns }, entries), expected);
  }
});

test("rows have unique keys, in the order of what happened", () => {
  const text = (id, text) => ({ kind: "text", id, text, isOpen: false, citations: [] });
  const notice = (type, more) => ({ kind: "notice", id: type + more.action, event: { type, ...more } });
  const items = [
    text("m1", ""),
    { kind: "tool", id: "c1", name: "look", arguments: {}, status: "succeeded" },
    notice("model.fallback", {}),
    notice("guardrail.triggered", { action: "allow" }),
    notice("guardrail.triggered", { action: "redact" }),
    notice("message.reset", {}),
    text("m2", "words"),
  ];
  const turns = [turn("t1", { items }), turn("t2")];
  const rows = rowsOf({ turns }, [entry("a")]);
  assert.deepEqual(
    rows.map(({ key }) => key),
    [
      "user:t1",
      "tool:c1",
      "notice:guardrail.triggeredredact",
      "notice:message.resetundefined",
      "text:m2",
      "status:t1",
      "user:t2",
      "status:t2",
      "out:a",
    ],
  );
  assert.deepEqual(
    rowsOf({ turns }, []).flatMap((row) => (row.kind === "status" ? [row.isLast] : [])),
    [false, true],
  );
});

test("nothing stands below a text that grows, or is pushed down by what comes", () => {
  const text = (isOpen) => ({ kind: "text", id: "m1", text: "words", isOpen, citations: [] });
  const keys = (items, status) => rowsOf({ turns: [turn("t1", { items, status })] }, []).map(({ key }) => key);
  assert.deepEqual(keys([], "running"), ["user:t1", "status:t1:0"]);
  assert.deepEqual(keys([text(true)], "running"), ["user:t1", "text:m1"]);
  assert.deepEqual(keys([text(false)], "running"), ["user:t1", "text:m1", "status:t1:1"]);
  assert.deepEqual(keys([text(false)], "completed"), ["user:t1", "text:m1", "status:t1"]);
});

test("a replaced turn is not shown; a refused replacement brings it back", () => {
  const keys = (turns, entries) => rowsOf({ turns }, entries).map(({ key }) => key);
  const replacing = (status) => [entry("a", { status, body: { input: "hi", replaces: "t1" } })];
  assert.deepEqual(keys([turn("t1", { replacedBy: "t2" }), turn("t2")], []), ["user:t2", "status:t2"]);
  assert.deepEqual(keys([turn("t1")], replacing("sending")), ["out:a"]);
  assert.deepEqual(keys([turn("t1")], replacing("failed")), ["user:t1", "status:t1", "out:a"]);
});

test("only the last turn can be edited, once it has ended and nothing follows", () => {
  const editable = (turns, entries) => rowsOf({ turns }, entries).filter(({ canEdit }) => canEdit).map(({ key }) => key);
  assert.deepEqual(editable([turn("t1"), turn("t2")], []), ["user:t2"]);
  assert.deepEqual(editable([turn("t1"), turn("t2", { status: "running" })], []), []);
  assert.deepEqual(editable([turn("t1")], [entry("a")]), []);
});
