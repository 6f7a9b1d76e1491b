import assert from "node:assert/strict";
import test from "node:test";

import fc from "fast-check";

import { addPage, apply, emptyState, filesOf } from "../dist/index.js";
import { turns } from "./arbitraries.js";
import { checkState } from "./check.js";
import { FakeServer, timelineOf } from "./fake.js";

const at = "2026-11-30T12:00:00Z";
let seq = 0;
/** An event of turn `t`. */
const event = (type, data = {}) => ({ type, position: String(++seq), seq, turn_id: "t", at, ...data });
const QUEUED = event("turn.queued", { input: "Hi", metadata: { a: 1 } });
const STARTED = event("turn.started", { attempt: 1, model: "m" });
const delta = (text, id = "m1") => event("message.delta", { message_id: id, text });
const completed = (text, calls = [], id = "m1") =>
  event("message.completed", { message_id: id, text, citations: [], tool_calls: calls, finish: "stop" });
const CALL = { id: "c1", name: "look", arguments: { q: 1 } };
const usage = { prompt_tokens: 1, completion_tokens: 1, cached_tokens: 0, cost_usd: 0, models: [] };

const fold = (events, state = emptyState) => events.reduce(apply, state);
/** A turn in one line. */
const show = (state) =>
  state.turns.map((turn) => {
    const items = turn.items.map((item) => {
      if (item.kind === "text") return `${item.isOpen ? "…" : ""}“${item.text}”`;
      if (item.kind === "tool") return `${item.name} ${item.status}${item.decision ? ` (${item.decision})` : ""}`;
      return item.event.type;
    });
    return [turn.status, ...items].join(" | ");
  });

const TABLE = [
  ["a queued turn", [QUEUED], ["queued"]],
  ["an open text", [QUEUED, STARTED, delta("Hel"), delta("lo")], ["running | …“Hello”"]],
  ["a completed text", [QUEUED, STARTED, delta("Hel"), completed("Hello")], ["running | “Hello”"]],
  ["deltas after the end change nothing", [QUEUED, STARTED, completed("Hello"), delta("lo")], ["running | “Hello”"]],
  [
    "a reset discards the open text only",
    [QUEUED, STARTED, completed("One", [], "m0"), delta("Tw"), event("message.reset", { message_id: "m1", reason: "restart" }), delta("Two", "m2")],
    ["running | “One” | message.reset | …“Two”"],
  ],
  [
    "a reset of a completed text changes nothing",
    [QUEUED, STARTED, completed("One"), event("message.reset", { message_id: "m1", reason: "restart" })],
    ["running | “One”"],
  ],
  ["a proposed call", [QUEUED, STARTED, completed("", [CALL])], ["running | “” | look proposed"]],
  [
    "a call that waits",
    [QUEUED, STARTED, completed("", [CALL]), event("approval.requested", { call_id: "c1", arguments: { q: 1 }, expires_at: at })],
    ["awaiting_approval | “” | look awaiting_approval"],
  ],
  [
    "an approved call with edited arguments",
    [
      QUEUED, STARTED, completed("", [CALL]),
      event("approval.requested", { call_id: "c1", arguments: { q: 1 }, expires_at: at }),
      event("approval.decided", { call_id: "c1", decision: "approved", by: "ada", arguments: { q: 2 } }),
      event("tool.called", { call_id: "c1", name: "look", arguments: { q: 2 } }),
    ],
    ["running | “” | look running (approved)"],
  ],
  [
    "a client tool that waits for a page, and one that a page has",
    [
      QUEUED, STARTED, completed("", [CALL, { ...CALL, id: "c2" }]),
      event("client_tool.requested", { call_id: "c1", name: "look", arguments: { q: 1 }, expires_at: at }),
      event("client_tool.requested", { call_id: "c2", name: "look", arguments: { q: 1 }, expires_at: at }),
      event("tool.called", { call_id: "c2", name: "look", arguments: { q: 1 }, expires_at: at }),
      event("client_tool.requested", { call_id: "c2", name: "look", arguments: { q: 1 }, expires_at: at }),
    ],
    ["running | “” | look proposed | look running"],
  ],
  [
    "a rejected call",
    [
      QUEUED, STARTED, completed("", [CALL]),
      event("approval.requested", { call_id: "c1", arguments: { q: 1 }, expires_at: at }),
      event("approval.decided", { call_id: "c1", decision: "expired", by: "system" }),
      event("tool.finished", { call_id: "c1", status: "rejected", error: "expired" }),
    ],
    ["running | “” | look rejected (expired)"],
  ],
  [
    "a finished call does not go back",
    [
      QUEUED, STARTED, completed("", [CALL]),
      event("tool.finished", { call_id: "c1", status: "succeeded", result: 1 }),
      event("tool.called", { call_id: "c1", name: "look", arguments: {} }),
    ],
    ["running | “” | look succeeded"],
  ],
  ["an end closes what is open", [QUEUED, STARTED, delta("Half"), event("turn.cancelled", { usage })], ["cancelled | “Half”"]],
  [
    "an ended turn does not start again",
    [QUEUED, STARTED, event("turn.completed", { usage, first_token_ms: 1 }), event("turn.started", { attempt: 2, model: "m" })],
    ["completed"],
  ],
  [
    "a notice comes once",
    [QUEUED, STARTED, ...["input", "input", "output"].map((stage) => event("guardrail.triggered", { stage, rule: "r", action: "redact" }))],
    ["running | guardrail.triggered | guardrail.triggered"],
  ],
  ["events of a turn that is not known", [STARTED, delta("x")], []],
  ["a turn that comes twice", [QUEUED, QUEUED], ["queued"]],
  ["an unknown event", [QUEUED, event("thought.shared", {})], ["queued"]],
  ["an erased conversation", [QUEUED, event("conversation.erased", { turn_id: null })], []],
];

for (const [name, events, expected] of TABLE) {
  test(`folds ${name}`, () => assert.deepEqual(show(fold(events)), expected));
}

test("a turn that is replaced says by which", () => {
  const again = { ...event("turn.queued", { input: "Hello", metadata: {}, replaces: "t" }), turn_id: "u" };
  const { turns } = fold([QUEUED, STARTED, completed("Hi"), event("turn.completed", { usage, first_token_ms: 1 }), again]);
  assert.deepEqual(turns.map(({ id, status, replacedBy }) => [id, status, replacedBy]), [
    ["t", "completed", "u"],
    ["u", "queued", null],
  ]);
  assert.equal(fold([again]).turns.length, 1, "also where the turn before is not known");
});

test("a title that the server wrote is kept", () => {
  const titled = event("conversation.titled", { turn_id: null, title: "Printer on fire" });
  assert.equal(fold([QUEUED]).title, null);
  assert.equal(fold([QUEUED, titled]).title, "Printer on fire");
  assert.deepEqual(show(fold([QUEUED, titled])), ["queued"]);
});

test("keeps what a user interface needs of a turn", () => {
  const failed = event("turn.failed", { code: "limit_time", message: "Too slow", retryable: true });
  const waiting = event("turn.waiting", { reason: "limit", until: at });
  const [turn] = fold([QUEUED, waiting]).turns;
  assert.deepEqual([turn.input, turn.metadata, turn.waiting], ["Hi", { a: 1 }, { reason: "limit", until: at }]);
  const [ended] = fold([QUEUED, waiting, STARTED, failed]).turns;
  assert.deepEqual([ended.waiting, ended.error, ended.finishedAt], [null, { code: "limit_time", message: "Too slow" }, at]);
  const state = fold([QUEUED, event("conversation.erased", { turn_id: null })]);
  assert.equal(state.isErased, true);
});

test("leaves the value before as it was, and the turns that it does not concern", () => {
  const other = { ...QUEUED, turn_id: "u" };
  const before = fold([other, QUEUED, STARTED, delta("a")]);
  const copy = structuredClone(before);
  const after = apply(before, delta("b"));
  assert.deepEqual(before, copy);
  assert.equal(after.turns[0], before.turns[0]);
  assert.notEqual(after.turns[1], before.turns[1]);
});

test("pages and the events behind them give the log, wherever the page was read", async () => {
  await fc.assert(
    fc.asyncProperty(turns(), fc.nat(60), fc.nat(8), fc.integer({ min: 1, max: 7 }), async (course, now, late, limit) => {
      const timeline = timelineOf(course);
      const server = new FakeServer(timeline, { now: Math.min(now, timeline.length) });
      // A page may tell more than its `last_seq` says.
      const last = server.seq;
      server.now = Math.min(timeline.length, server.now + late);
      let state = emptyState;
      do {
        const query = new URLSearchParams({ order: "desc", limit, ...(state.cursor && { cursor: state.cursor }) });
        const answer = await server.fetch(`http://fake/v1/conversations/conv_1/messages?${query}`, {
          headers: { authorization: "Bearer token-0" },
        });
        state = addPage(state, { ...(await answer.json()), last_seq: last });
      } while (state.cursor);
      const open = openText(timeline, last);
      if (open) state = apply(state, open);
      for (const step of timeline.slice(timeline.findLastIndex(({ seq }) => seq && seq <= last) + 1)) {
        if (!step.seq) state = apply(state, { type: step.type, position: "", seq: last, ...step.data });
        else state = apply(state, { type: step.type, position: String(step.seq), ...step.data });
      }
      checkState(state, timeline);
    }),
    { numRuns: 500 },
  );
});

/** The text so far of the message that is open at a record: a stream without an offset sends it first. */
function openText(timeline, seq) {
  const until = timeline.findLastIndex((step) => step.seq && step.seq <= seq);
  let text = "";
  let data;
  for (const step of timeline.slice(0, until + 1)) {
    if (step.type === "message.delta") {
      text += step.data.text;
      data = step.data;
    } else if (["turn.started", "message.reset", "message.completed"].includes(step.type)) text = "";
  }
  const closes = timeline.slice(until + 1).find(({ type }) => type === "message.reset" || type === "message.completed");
  if (!text || closes?.type === "message.reset") return undefined;
  return { type: "message.delta", position: "", seq, ...data, text };
}

test("a call says where its arguments come from, if the server does", () => {
  const origins = { q: ["zendesk_get_ticket"] };
  const asked = { call_id: CALL.id, name: CALL.name, arguments: CALL.arguments, expires_at: at };
  for (const told of [origins, undefined]) {
    const events = [QUEUED, STARTED, completed("", [CALL]), event("approval.requested", { ...asked, origins: told })];
    assert.deepEqual(events.reduce(apply, emptyState).turns[0].items.at(-1).origins, told);
  }
});

test("the files of an input are told apart from its words", () => {
  const input = [{ type: "text", text: "Read" }, { type: "file", file_id: "file_1", name: "a.txt", bytes: 3 }];
  assert.deepEqual(filesOf(input).map(({ file_id }) => file_id), ["file_1"]);
  assert.deepEqual(filesOf("words"), []);
});
