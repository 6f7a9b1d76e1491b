import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import * as client from "../dist/index.js";
import { delayOf } from "../dist/environment.js";
import { clientOf } from "./check.js";
import { problem } from "./fake.js";

const { ConflictError, ConnectionError, CopilotdError, InvalidError, UnexpectedAnswerError } = client;
const schemas = process.env.COPILOTD_SCHEMAS ?? resolve(import.meta.dirname, "../../../../schemas");

/** Answers with each of a list in turn; the last one for ever. Functions are called. */
function serverOf(...answers) {
  const requests = [];
  const fetch = async (url, init) => {
    requests.push({ url, ...init });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    return typeof answer === "function" ? answer(init) : answer.clone();
  };
  return { requests, fetch };
}
const CONVERSATION = Response.json({ id: "conv_1", last_seq: 3 });
const refused = () => {
  throw new TypeError("fetch failed");
};

test("there is a class for each problem code", async () => {
  const { properties } = JSON.parse(readFileSync(join(schemas, "api/problem.json"), "utf8"));
  const names = new Set();
  for (const code of properties.code.enum) {
    const server = serverOf(problem(409, code));
    const error = await clientOf(server).conversation("c").get().catch((error) => error);
    assert.ok(error instanceof CopilotdError);
    assert.notEqual(error.constructor, CopilotdError, code);
    assert.equal(client[error.constructor.name], error.constructor, "it is exported");
    assert.equal(error.code, code);
    names.add(error.constructor);
  }
  assert.equal(names.size, properties.code.enum.length);
});

test("an error tells all that the problem says", async () => {
  const body = {
    type: "https://copilotd.dev/problems/invalid", title: "Invalid", status: 422, detail: "No", code: "invalid",
    request_id: "req_7", retry: "never", errors: [{ pointer: "/input", message: "is missing" }],
  };
  const error = await clientOf(serverOf(Response.json(body, { status: 422 }))).conversation("c").get().catch((e) => e);
  assert.ok(error instanceof InvalidError);
  const { code, title, detail, status, requestId, retry, retryAfter, errors, message, name } = error;
  assert.deepEqual(
    { code, title, detail, status, requestId, retry, retryAfter, errors, message, name },
    {
      code: "invalid", title: "Invalid", detail: "No", status: 422, requestId: "req_7", retry: "never",
      retryAfter: undefined, errors: body.errors, message: "No", name: "CopilotdError",
    },
  );
});

test("a problem with a new code, and an answer that is no problem document", async () => {
  const novel = await clientOf(serverOf(problem(418, "teapot"))).conversation("c").get().catch((e) => e);
  assert.deepEqual([novel.constructor, novel.code], [CopilotdError, "teapot"]);
  const page = new Response("<h1>Forbidden", { status: 403, headers: { "x-request-id": "r" } });
  const error = await clientOf(serverOf(page)).conversation("c").get().catch((e) => e);
  assert.deepEqual([error.constructor, error.status, error.requestId], [UnexpectedAnswerError, 403, "r"]);
});

for (const [name, answer, times] of [
  ["no connection", refused, 5],
  ["503", problem(503, "overloaded"), 5],
  ["503 for a long time", problem(503, "unavailable", { "retry-after": "60" }), 1],
  ["502 of a proxy", new Response("", { status: 502 }), 5],
  ["429 rate_limited", problem(429, "rate_limited"), 5],
  ["429 queue_full", problem(429, "queue_full"), 1],
  ["429 budget_exhausted", problem(429, "budget_exhausted"), 1],
  ["409", problem(409, "conflict"), 1],
  ["422", problem(422, "invalid"), 1],
]) {
  test(`${name} is asked for ${times} times`, async () => {
    const server = serverOf(answer);
    await assert.rejects(clientOf(server).conversation("c").get());
    assert.equal(server.requests.length, times);
  });
}

test("every attempt of a submission bears the same key and body", async () => {
  const broken = new Response(new ReadableStream({ start: (controller) => controller.error(new TypeError("cut")) }), { status: 202 });
  const server = serverOf(refused, problem(503, "unavailable"), () => broken, Response.json({ id: "turn_1" }, { status: 202 }));
  const turn = await clientOf(server).conversation("c/1").send("Hi", { whenBusy: "reject", metadata: { a: 1 } });
  assert.equal(turn.id, "turn_1");
  assert.equal(server.requests.length, 4);
  assert.equal(new Set(server.requests.map(({ headers }) => headers["idempotency-key"])).size, 1);
  assert.equal(new Set(server.requests.map(({ body }) => body)).size, 1);
  assert.deepEqual(JSON.parse(server.requests[0].body), { input: "Hi", when_busy: "reject", metadata: { a: 1 } });
  assert.equal(server.requests[0].url, "http://fake/v1/conversations/c%2F1/turns");
});

test("a turn is replaced in its own conversation", async () => {
  const turn = { id: "turn_2", conversation_id: "conv_1" };
  const server = serverOf(Response.json(turn));
  const second = await clientOf(server).turn("turn_1").replace("Again", { metadata: { a: 1 } });
  await second.replace("Once more");
  assert.deepEqual(
    server.requests.map(({ method, url, body }) => `${method} ${url.replace("http://fake/v1/", "")} ${body ?? ""}`.trim()),
    [
      "GET turns/turn_1",
      'POST conversations/conv_1/turns {"input":"Again","metadata":{"a":1},"replaces":"turn_1"}',
      'POST conversations/conv_1/turns {"input":"Once more","replaces":"turn_2"}',
    ],
  );
});

test("a turn without feedback has none", async () => {
  assert.equal(await clientOf(serverOf(problem(404, "not_found"))).turn("t").givenFeedback(), null);
  await assert.rejects(clientOf(serverOf(problem(403, "forbidden"))).turn("t").givenFeedback());
});

test("two submissions have different keys, unless one is given", async () => {
  const server = serverOf(Response.json({ id: "turn_1" }));
  const conversation = clientOf(server).conversation("c");
  await conversation.send("Hi");
  await conversation.send("Hi");
  await conversation.send("Hi", { idempotencyKey: "mine" });
  const keys = server.requests.map(({ headers }) => headers["idempotency-key"]);
  assert.notEqual(keys[0], keys[1]);
  assert.equal(keys[2], "mine");
});

test("calls say what they should", async () => {
  const server = serverOf(Response.json({ id: "x", data: [], next_cursor: null }));
  const api = clientOf(server);
  await api.conversations.create({ title: "T" });
  await api.conversations.list({ limit: 5, cursor: "a b" });
  await api.conversations.list({ q: "on fire" });
  await api.conversation("c").rename("New");
  await api.conversation("c").messages({ order: "desc" });
  await api.turn("t").cancel();
  await api.turn("t").approve("k", { arguments: { a: 1 } });
  await api.turn("t").reject("k", { reason: "no" });
  await api.turn("t").feedback(-1, { comment: "bad" });
  await api.turn("t").givenFeedback();
  await api.conversation("c").ticket();
  assert.deepEqual(
    server.requests.map(({ method, url, body }) => `${method} ${url.replace("http://fake/v1/", "")} ${body ?? ""}`.trim()),
    [
      'POST conversations {"title":"T"}',
      "GET conversations?limit=5&cursor=a+b",
      "GET conversations?q=on+fire",
      'PATCH conversations/c {"title":"New"}',
      "GET conversations/c/messages?order=desc",
      "POST turns/t/cancel",
      'POST turns/t/approvals/k {"decision":"approve","arguments":{"a":1}}',
      'POST turns/t/approvals/k {"decision":"reject","reason":"no"}',
      'POST turns/t/feedback {"rating":-1,"comment":"bad"}',
      "GET turns/t/feedback",
      'POST stream-tickets {"conversation_id":"c"}',
    ],
  );
});

test("erasing what is gone already is done", async () => {
  await clientOf(serverOf(refused, problem(404, "not_found"))).conversation("c").delete();
});

test("a list is read page by page", async () => {
  const page = (ids, next_cursor) => Response.json({ data: ids.map((id) => ({ id })), next_cursor });
  const server = serverOf(page(["a", "b"], "next"), page(["c"], null));
  const ids = [];
  for await (const { id } of clientOf(server).conversations.all()) ids.push(id);
  assert.deepEqual(ids, ["a", "b", "c"]);
  assert.equal(server.requests.length, 2);
});

test("a token that is refused twice is an error, and the next call asks for another", async () => {
  let issued = 0;
  const server = serverOf(problem(401, "unauthenticated"), problem(401, "unauthenticated"), CONVERSATION);
  const api = clientOf({ ...server, issue: () => `token-${++issued}` });
  await assert.rejects(api.conversation("c").get(), client.UnauthenticatedError);
  await api.conversation("c").get();
  assert.deepEqual(server.requests.map(({ headers }) => headers.authorization), ["Bearer token-1", "Bearer token-2", "Bearer token-2"]);
});

test("a token that cannot be had is asked for again", async () => {
  let calls = 0;
  const issue = async () => {
    if (++calls < 3) throw new Error("signed out");
    return "token";
  };
  await clientOf({ ...serverOf(CONVERSATION), issue }).conversation("c").get();
  assert.equal(calls, 3);
});

test("a token and an answer that never come end in time, and by the signal", async () => {
  const never = ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const slow = clientOf(serverOf(never), { timeout: 5, retries: 1 });
  await assert.rejects(slow.conversation("c").get(), ConnectionError);
  let asked = 0;
  const issue = () => (asked++ ? "token" : new Promise(() => {}));
  await clientOf({ ...serverOf(CONVERSATION), issue }, { timeout: 5 }).conversation("c").get();
  assert.equal(asked, 2, "a renewal that hangs is given up");

  const controller = new AbortController();
  const waiting = clientOf(serverOf(never)).conversation("c").get({ signal: controller.signal });
  await sleep(2);
  controller.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
});

test("text waits for the end, and throws what a turn failed of", async () => {
  const stream = (type) =>
    new Response(`event: ${type}\nid: 5\ndata: {"seq":5}\n\n`, { headers: { "content-type": "text/event-stream" } });
  const done = Response.json({ status: "completed", error: null, output: { text: "Hello" } });
  assert.equal(await clientOf(serverOf(stream("turn.completed"), done)).turn("t").text(), "Hello");
  const failed = Response.json({ status: "failed", error: { code: "limit_time", message: "Too slow" }, output: null });
  const error = await clientOf(serverOf(stream("turn.failed"), failed)).turn("t").text().catch((e) => e);
  assert.deepEqual([error.constructor, error.code, error.message], [client.TurnFailedError, "limit_time", "Too slow"]);
});

test("an EventSource gets an address with a ticket", async () => {
  const api = clientOf(serverOf(Response.json({ ticket: "t.1", expires_at: "" })), { baseUrl: "http://fake/" });
  assert.equal(await api.conversation("c").streamUrl({ after: 7 }), "http://fake/v1/conversations/c/events?after=7&ticket=t.1");
});

test("waits double up to the cap, differ, and respect the server's", () => {
  const backoff = { base: 100, cap: 1000 };
  const most = (failures, after) => delayOf(failures, backoff, after, () => 1);
  assert.deepEqual([0, 1, 2, 3, 4, 50].map((n) => most(n)), [100, 200, 400, 800, 1000, 1000]);
  assert.equal(delayOf(0, backoff, 0, () => 0), 10);
  assert.equal(most(0, 7000), 7100);
  assert.equal(most(0, 1e9), 300_100);
});
