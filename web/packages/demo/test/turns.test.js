import assert from "node:assert/strict";
import { test } from "node:test";

import { Turn } from "../src/turns.js";

const call = { id: "call_1", name: "zendesk_create_ticket", arguments: { subject: "Export" } };

/** A turn that has taken some events. */
function turn(...events) {
  const turn = new Turn("turn_1", 1, "Hello");
  for (const [type, data] of events) turn.apply(type, data);
  return turn;
}

const started = ["turn.started", { attempt: 1 }];
const delta = (text) => ["message.delta", { message_id: "msg_1", text }];
const completed = (text, tool_calls = []) => ["message.completed", { message_id: "msg_1", text, tool_calls }];
const texts = (turn) => turn.items.filter((item) => item.kind === "message").map((item) => item.text);
const notes = (turn) => turn.items.filter((item) => item.kind === "note").map((item) => item.text);

test("text streams into one message, and the whole text replaces it", () => {
  const open = turn(started, delta("Hel"), delta("lo"));
  assert.deepEqual(texts(open), ["Hello"]);
  assert.ok(open.open);
  open.apply(...completed("Hello!"));
  assert.deepEqual(texts(open), ["Hello!"]);
  assert.equal(open.open, undefined);
});

test("an event that tells what is known already changes nothing", () => {
  const events = [started, delta("Hi"), completed("Hi", [call]), ["tool.called", { call_id: "call_1", arguments: {} }]];
  const once = turn(...events);
  const again = turn(...events, delta("Hi"), completed("Hi", [call]));
  assert.deepEqual(again.items, once.items);
});

test("a call never goes back to an earlier state", () => {
  const known = turn(started, completed("", [call]), ["tool.called", { call_id: "call_1", arguments: call.arguments }]);
  known.apply("approval.requested", { call_id: "call_1", arguments: {}, expires_at: "2030-01-01T00:00:00Z" });
  assert.equal(known.calls()[0].status, "running");
  known.apply("tool.finished", { call_id: "call_1", status: "succeeded", result: { id: 7 } });
  known.apply("tool.called", { call_id: "call_1", arguments: {} });
  assert.equal(known.calls()[0].status, "succeeded");
  assert.deepEqual(known.calls()[0].result, { id: 7 });
});

test("a turn waits for a decision until it is made", () => {
  const request = { call_id: "call_1", arguments: call.arguments, expires_at: "2030-01-01T00:00:00Z" };
  const waiting = turn(started, completed("", [call]), ["approval.requested", request]);
  assert.equal(waiting.state, "awaiting_approval");
  waiting.apply("approval.decided", { call_id: "call_1", decision: "rejected", by: "ada" });
  assert.equal(waiting.state, "running");
  assert.equal(waiting.calls()[0].status, "rejected");
  assert.equal(waiting.calls()[0].decided, "rejected by ada");
});

test("a message that is taken back goes and leaves one note; one that is complete stays", () => {
  const reset = (seq) => ["message.reset", { message_id: "msg_1", reason: "recovered", seq }];
  const open = turn(started, delta("Hel"), reset(4), reset(4));
  assert.deepEqual(texts(open), []);
  assert.equal(notes(open).length, 1);
  assert.deepEqual(texts(turn(started, completed("Hello"), reset(4))), ["Hello"]);
});

test("the end of a turn closes its text, and it does not start again", () => {
  const ended = turn(started, delta("Hel"), ["turn.cancelled", { at: "2030-01-01T00:00:00Z", usage: null }], started);
  assert.equal(ended.status, "cancelled");
  assert.equal(ended.open, undefined);
});

test("an answer has its citations, streamed and read again", () => {
  const citations = [{ title: "Refunds", quote: "Five days.", chunk_id: "chunk_1" }];
  const text = "Five days.";
  const streamed = turn(started, delta(text), ["message.completed", { message_id: "msg_1", text, tool_calls: [], citations }]);
  const messages = [
    { id: "msg_0", seq: 1, role: "user", content: "How long?" },
    { id: "msg_1", seq: 2, role: "assistant", content: text, citations },
  ];
  const view = { id: "turn_1", tool_calls: [], guardrails: [], status: "completed", usage: null };
  for (const { items } of [streamed, Turn.from(messages, view)]) assert.deepEqual(items[0].citations, citations);
});
