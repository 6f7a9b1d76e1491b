// Client tools: each call is run by one page, once, whatever tabs, reloads and lost answers do.

import assert from "node:assert/strict";
import test from "node:test";
import { setImmediate } from "node:timers/promises";

import { createClient } from "../dist/index.js";
import { offersOf, runTools } from "../dist/tools.js";
import { until } from "./check.js";
import { problem } from "./fake.js";

const TURN = "turn_1";

// In a browser each page has its own hold on locks; here all pages are one process, so they have none unless a test says so.
Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });

/** A conversation in memory whose running turn has calls of client tools. */
class Server {
  calls = new Map();
  readers = new Set();
  posts = [];
  /** Requests of pages that are done but whose answers get lost, by what they are: `claim` or `answer`. */
  lost = [];
  seq = 1;

  request(id, name = "look", args = { n: 1 }) {
    const call = { id, name, arguments: args, status: "proposed", expires_at: "2026-11-30T12:01:00Z" };
    this.calls.set(id, call);
    const data = { seq: ++this.seq, turn_id: TURN, call_id: id, name, arguments: args, expires_at: call.expires_at };
    for (const send of this.readers) send("client_tool.requested", data);
    return call;
  }

  fetch = async (url, init = {}) => {
    await setImmediate();
    init.signal?.throwIfAborted();
    const { pathname } = new URL(url);
    if (pathname.endsWith("/messages")) {
      const turns = [{ id: TURN, status: "running", tool_calls: [...this.calls.values()] }];
      return Response.json({ data: [], turns, next_cursor: null, last_seq: this.seq });
    }
    if (pathname.endsWith("/events")) return this.#stream(init.signal);
    const key = new Headers(init.headers).get("idempotency-key");
    return this.#post(pathname.split("/").pop(), JSON.parse(init.body), key);
  };

  #stream(signal) {
    const encoder = new TextEncoder();
    let send;
    const body = new ReadableStream({
      start: (controller) => {
        send = (type, data) =>
          controller.enqueue(encoder.encode(`event: ${type}\nid: ${data.seq}\ndata: ${JSON.stringify(data)}\n\n`));
        this.readers.add(send);
        signal.addEventListener("abort", () => this.readers.delete(send));
      },
      cancel: () => this.readers.delete(send),
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }

  #post(id, body, key) {
    this.posts.push({ id, body, key });
    const call = this.calls.get(id);
    const isClaim = body.claim === true;
    if (isClaim) {
      const isRepeated = call.status === "running" && call.key === key;
      if (call.status !== "proposed" && !isRepeated) return problem(409, "not_waiting");
      Object.assign(call, { status: "running", key, claim: `secret of ${key}` });
    } else {
      const isRepeated = call.answer === JSON.stringify(body);
      const isAwaited = call.status === "running" && call.claim === body.claim;
      if (!isAwaited && !isRepeated) return problem(409, "not_waiting");
      Object.assign(call, { status: body.error ? "failed" : "succeeded", answer: JSON.stringify(body), body });
    }
    if (this.lost[0] === (isClaim ? "claim" : "answer")) {
      this.lost.shift();
      throw new TypeError("fetch failed");
    }
    const { name, arguments: args, expires_at, claim } = call;
    return isClaim
      ? Response.json({ call_id: id, name, arguments: args, expires_at, claim })
      : Response.json({ id: TURN }, { status: 202 });
  }
}

/** What a tab remembers. */
class Storage {
  items = new Map();
  getItem = (key) => this.items.get(key) ?? null;
  setItem = (key, value) => void this.items.set(key, value);
  removeItem = (key) => void this.items.delete(key);
}

/** Opens a page; `retries: 0` is one that is closed when an answer gets lost. */
function open(server, run, { storage = new Storage(), retries = 4 } = {}) {
  const options = { baseUrl: "http://test", token: () => "t", fetch: server.fetch, retries, backoff: { base: 1, cap: 2 } };
  const errors = [];
  const tools = { look: { description: "Looks.", parameters: { type: "object" }, run } };
  const conversation = createClient(options).conversation("conv_1");
  const runner = runTools(conversation, tools, { storage, onError: (error) => errors.push(error) });
  return { runner, errors, storage };
}

const opened = (server, count) => until(() => server.readers.size === count, `${count} streams`);
const ended = (call) => until(() => ["succeeded", "failed"].includes(call.status), "the call to end");

async function close(...pages) {
  for (const { runner } of pages) runner.close();
  await Promise.all(pages.map(({ runner }) => runner.ended));
}

test("two tabs run a call once", async () => {
  const server = new Server();
  const runs = [];
  const pages = [1, 2, 3].map((tab) => open(server, ({ n }) => (runs.push(tab), { seen: n })));
  await opened(server, 3);
  const calls = ["call_1", "call_2", "call_3"].map((id) => server.request(id));
  for (const call of calls) await ended(call);
  await close(...pages);
  assert.equal(runs.length, 3);
  for (const { body } of calls) assert.deepEqual(body.result, { seen: 1 });
  for (const { errors, storage } of pages) {
    assert.deepEqual(errors, []);
    assert.equal(storage.items.size, 0, "nothing is remembered of calls that have ended");
  }
});

test("a page that is opened later takes what is open", async () => {
  const server = new Server();
  const call = server.request("call_1");
  const page = open(server, () => undefined);
  await ended(call);
  assert.equal(call.body.result, null);
  await close(page);
});

test("answers that get lost change nothing", async () => {
  const server = new Server();
  server.lost = ["claim", "answer"];
  let runs = 0;
  const page = open(server, () => ++runs);
  await opened(server, 1);
  const call = server.request("call_1");
  await ended(call);
  await close(page);
  assert.deepEqual([runs, call.body.result, page.errors], [1, 1, []]);
  assert.equal(server.posts.length, 4);
});

test("a reload before the claim was answered claims again, under the same key", async () => {
  const server = new Server();
  server.lost = ["claim"];
  let runs = 0;
  const before = open(server, () => ++runs, { retries: 0 });
  await opened(server, 1);
  const call = server.request("call_1");
  await until(() => before.errors.length === 1, "the answer to be lost");
  await close(before);
  assert.deepEqual([runs, call.status], [0, "running"]);
  // Another tab leaves it alone.
  const other = open(server, () => assert.fail("not its call"));
  const after = open(server, () => ++runs, { storage: before.storage });
  await ended(call);
  await close(other, after);
  assert.deepEqual([runs, call.body.result], [1, 1]);
});

test("a tab that was duplicated while the first one claims leaves the call to it", async (t) => {
  const held = new Set();
  navigator.locks = {
    async request(name, { ifAvailable }, callback) {
      assert.ok(ifAvailable);
      if (held.has(name)) return callback(null);
      held.add(name);
      try {
        return await callback({ name });
      } finally {
        held.delete(name);
      }
    },
  };
  t.after(() => delete navigator.locks);
  const server = new Server();
  let runs = 0;
  let finish;
  const first = open(server, () => (runs++, new Promise((resolve) => (finish = resolve))));
  await opened(server, 1);
  const call = server.request("call_1");
  await until(() => runs === 1, "the function to run");
  // The copy knows the key of the claim, as it stood before the server answered.
  const storage = new Storage();
  storage.setItem("copilotd.call.call_1", JSON.stringify({ key: call.key }));
  const copy = open(server, () => ++runs, { storage });
  await opened(server, 2);
  finish("once");
  await ended(call);
  await close(first, copy);
  assert.deepEqual([runs, call.body.result], [1, "once"]);
});

test("a reload while the function runs does not run it again", async () => {
  const server = new Server();
  let runs = 0;
  const storage = new Storage();
  const before = open(server, () => (runs++, new Promise(() => {})), { storage });
  await opened(server, 1);
  const call = server.request("call_1");
  await until(() => runs === 1, "the function to run");
  before.runner.close();
  // Locks end with their page; this process has none.
  const after = open(server, () => ++runs, { storage });
  await until(() => storage.items.size === 0, "the call to be forgotten");
  await close(after);
  assert.deepEqual([runs, call.status], [1, "running"], "the server ends it as unknown");
});

test("a reload after the function ended answers with its result", async () => {
  const server = new Server();
  server.lost = ["answer"];
  const storage = new Storage();
  const before = open(server, () => "once", { storage, retries: 0 });
  await opened(server, 1);
  const call = server.request("call_1");
  await until(() => before.errors.length === 1, "the answer to be lost");
  await close(before);
  // The server has not got it either.
  Object.assign(call, { status: "running", answer: undefined });
  const after = open(server, () => assert.fail("it has run"), { storage });
  await ended(call);
  await close(after);
  assert.equal(call.body.result, "once");
});

test("what a function throws, and what cannot be sent, is an error", async () => {
  const circle = {};
  circle.circle = circle;
  const cases = [
    [() => { throw new Error("no such order"); }, /^no such order$/],
    [async () => { throw ""; }, /^the function failed$/],
    [() => circle, /circular/i],
    [() => "x".repeat(70_000), /larger than 60000 bytes/],
  ];
  for (const [run, expected] of cases) {
    const server = new Server();
    const call = server.request("call_1");
    const page = open(server, run);
    await ended(call);
    await close(page);
    assert.match(call.body.error, expected);
  }
});

test("calls of functions that this page lacks are left to others", async () => {
  const server = new Server();
  const page = open(server, () => assert.fail("another function"));
  await opened(server, 1);
  server.request("call_1", "other");
  server.request("call_2", "toString");
  for (let i = 0; i < 20; i++) await setImmediate();
  await close(page);
  assert.deepEqual(server.posts, []);
});

test("tools are offered without their functions", () => {
  const tools = { look: { description: "Looks.", parameters: { type: "object" }, run() {} } };
  assert.deepEqual(offersOf(tools), [{ name: "look", description: "Looks.", parameters: { type: "object" } }]);
});
