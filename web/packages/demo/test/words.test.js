import assert from "node:assert/strict";
import { test } from "node:test";

import { callOf, figures, noticeOf, shown, statusOf, toolName, waitOf } from "../src/activity/words.js";

test("a tool is named by its system", () => {
  assert.equal(toolName("zendesk_create_ticket"), "Zendesk: create ticket");
  assert.equal(toolName("search"), "Search");
});

test("a turn says what it is doing", () => {
  for (const [turn, position, said] of [
    [{ status: "queued", attempt: 0 }, 2, "queued, number 2 in line"],
    [{ status: "queued", attempt: 0 }, 0, "queued"],
    [{ status: "running", attempt: 1 }, 0, "running"],
    [{ status: "running", attempt: 3 }, 0, "running, attempt 3"],
    [{ status: "awaiting_approval", attempt: 1 }, 0, "waits for an approval"],
    [{ status: "completed", attempt: 2 }, 0, "completed, attempt 2"],
    [{ status: "of a later version", attempt: 1 }, 0, "of a later version"],
  ])
    assert.equal(statusOf(turn, position), said);
  assert.match(waitOf({ reason: "provider_rate_limit" }), /limits the rate/);
  assert.match(waitOf({ reason: "of a later version" }), /^waits/);
});

test("notices are told, also those of a later version", () => {
  for (const [event, said] of [
    [{ type: "model.fallback", from: "a", to: "b" }, "a did not answer in time; b took over"],
    [{ type: "message.reset", reason: "recovered" }, /server was restarted in mid-answer/],
    [{ type: "message.reset", reason: "fallback" }, "the answer was interrupted and begins again"],
    [{ type: "memory.compressed", tokens_before: 12000, tokens_after: 900 }, /made 900 tokens of 12,000/],
    [{ type: "guardrail.triggered", rule: "no_secrets", action: "redact" }, "the guardrail “no secrets” took something out"],
    [{ type: "guardrail.triggered", rule: "r", action: "of a later version" }, "the guardrail “r” was applied"],
  ])
    if (typeof said === "string") assert.equal(noticeOf({ event }), said);
    else assert.match(noticeOf({ event }), said);
});

test("a decided call says who decided", () => {
  assert.equal(callOf({ status: "awaiting_approval" }), "awaiting approval");
  assert.equal(callOf({ status: "rejected", decision: "rejected", decidedBy: "ada" }), "rejected; rejected by ada");
  assert.equal(callOf({ status: "rejected", decision: "expired" }), "rejected; the approval expired");
});

test("costs are shown as they are, and nothing that is not known", () => {
  const usage = { prompt_tokens: 1200, completion_tokens: 34, cached_tokens: 1000, cost_usd: 0.00345, models: ["large"] };
  assert.deepEqual(figures({ usage, firstTokenMs: 1250, finishedAt: null }), [
    ["tokens in", "1,200 (1,000 cached)"],
    ["tokens out", "34"],
    ["cost", "$0.0034"],
    ["model", "large"],
    ["first word", "1.3 s"],
  ]);
  assert.deepEqual(figures({ usage: null, firstTokenMs: null, finishedAt: null }), []);
  const free = { prompt_tokens: 1, completion_tokens: 1, cached_tokens: 0, cost_usd: null, models: [] };
  assert.deepEqual(figures({ usage: free, firstTokenMs: null, finishedAt: null }), [
    ["tokens in", "1"],
    ["tokens out", "1"],
  ]);
});

test("arguments and results are shown as JSON if they are, and long ones are cut", () => {
  assert.equal(shown('{"a":1}'), '{\n  "a": 1\n}');
  assert.equal(shown({ a: 1 }), '{\n  "a": 1\n}');
  assert.equal(shown("no {json"), "no {json");
  assert.equal(shown(null), "");
  assert.equal(shown(undefined), "");
  assert.equal(shown("x".repeat(30), 10), `${"x".repeat(10)}\n… (20 more characters)`);
});
