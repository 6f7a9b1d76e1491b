import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import test from "node:test";

import "fake-indexeddb/auto";
import fc from "fast-check";

import { createClient, memoryStorage, Outbox, OutboxFullError, webStorage } from "../dist/index.js";
import { indexedDbStorage } from "../dist/indexeddb.js";
import { Transport } from "../dist/transport.js";
import { until } from "./check.js";
import { problem } from "./fake.js";

/** A server that loses requests and answers, and remembers idempotency keys as API.md says. */
class Server {
  constructor(faults = []) {
    this.faults = [...faults];
    this.turns = [];
    this.answers = new Map();
    this.requests = 0;
    this.isAway = false;
    this.fetch = this.fetch.bind(this);
  }

  async fetch(url, { body, headers }) {
    this.requests++;
    const fault = this.faults.shift();
    await setImmediate();
    if (this.isAway || fault === "lost") throw new TypeError("fetch failed");
    if (fault === "busy") return problem(503, "overloaded", { "retry-after": "0" });
    if (fault === "full") return problem(429, "queue_full");
    if (fault === "forbidden") return problem(403, "forbidden");
    if (fault === "signed out") return problem(401, "unauthenticated");
    const answer = this.#answer(new URL(url).pathname, headers["idempotency-key"], body);
    if (fault === "answer lost") throw new TypeError("fetch failed");
    return answer;
  }

  #answer(path, key, body) {
    const known = this.answers.get(path + key);
    if (known) return known.body === body ? Response.json(known.answer) : problem(409, "idempotency_key_reused");
    if (JSON.parse(body).input === "refuse me") return problem(422, "invalid");
    const answer = path.endsWith("/turns") ? { id: `turn_${this.turns.length}` } : { id: `conv_of_${key}` };
    if (path.endsWith("/turns")) this.turns.push({ conversation: path.split("/")[3], input: JSON.parse(body).input });
    this.answers.set(path + key, { body, answer });
    return Response.json(answer, { status: 201 });
  }

  said(conversation) {
    return this.turns.filter((turn) => turn.conversation === conversation).map(({ input }) => input);
  }
}

const transportOf = (server) =>
  new Transport({ baseUrl: "http://fake", token: () => "t", fetch: server.fetch, backoff: { base: 1, cap: 2 } });
const outboxOf = (server, options) => new Outbox(transportOf(server), options);
const shared = (storage = memoryStorage()) => ({ storage, user: "acme/ada" });
const isSent = (outbox) => () => outbox.entries().every(({ status }) => status === "sent" || status === "failed");

const fault = fc.constantFrom("lost", "busy", "answer lost", "full", undefined);

test("each message becomes one turn, in order: faults, reloads, two tabs", async () => {
  const action = fc.oneof(
    { weight: 4, arbitrary: fc.record({ kind: fc.constant("write"), tab: fc.nat(1), to: fc.constantFrom("conv_a", "conv_b", "draft") }) },
    fc.record({ kind: fc.constant("reload"), tab: fc.nat(1) }),
    fc.record({ kind: fc.constant("wait"), tab: fc.nat(1) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 20 }), fc.array(fault, { maxLength: 30 }), async (actions, faults) => {
      const server = new Server(faults);
      const options = shared();
      const tabs = [outboxOf(server, options), outboxOf(server, options)];
      const written = { conv_a: [], conv_b: [], conv_of_draft: [] };
      let n = 0;
      for (const { kind, tab, to } of actions) {
        if (kind === "write") {
          const input = `message ${n++}`;
          // From one tab after the other: no order is promised between tabs that write at the same time.
          await tabs[tab].add(to === "draft" ? { key: "draft", body: { title: "T" } } : to, { input });
          written[to === "draft" ? "conv_of_draft" : to].push(input);
        } else if (kind === "reload") {
          tabs[tab].close();
          tabs[tab] = outboxOf(server, options);
        } else await setImmediate();
      }
      await until(() => server.turns.length >= n, "every message");
      await until(() => tabs.every((tab) => isSent(tab)()), "the tabs to know");
      for (const [conversation, inputs] of Object.entries(written)) assert.deepEqual(server.said(conversation), inputs);
      assert.deepEqual(await options.storage.keys(), [], "nothing stays stored");
      for (const tab of tabs) tab.close();
    }),
    { numRuns: 150, endOnFailure: true, includeErrorInReport: true },
  );
});

test("a message written offline is sent after a reload, once", async () => {
  const server = new Server();
  server.isAway = true;
  const options = shared();
  const before = outboxOf(server, options);
  const entry = await before.add("conv_a", { input: "Hi" });
  assert.deepEqual([entry.status, entry.turnId], ["queued", null]);
  await until(() => before.entries()[0].failures > 0);
  assert.equal(before.entries()[0].error.code, "unreachable");
  before.close();
  server.isAway = false;
  const after = outboxOf(server, options);
  await until(() => server.turns.length === 1);
  await until(() => after.entries()[0]?.status === "sent");
  assert.equal(after.entries()[0].key, entry.key);
  after.settle(new Set(["turn_0"]));
  assert.deepEqual(after.entries(), []);
  after.close();
});

test("a client sends what an earlier page has left, without being asked", async () => {
  const server = new Server();
  server.isAway = true;
  const options = shared();
  const before = outboxOf(server, options);
  await before.add("conv_a", { input: "Hi" });
  before.close();
  server.isAway = false;
  const client = createClient({ baseUrl: "http://fake", token: () => "t", fetch: server.fetch, outbox: options });
  await until(() => server.turns.length === 1);
  client.close();
});

test("a refusal stops one message only; it can be sent again or be discarded", async () => {
  const server = new Server();
  const outbox = outboxOf(server);
  await outbox.add("conv_a", { input: "refuse me" });
  await outbox.add("conv_a", { input: "and me?" });
  await until(isSent(outbox));
  const [failed] = outbox.entries();
  assert.deepEqual([failed.status, failed.error.code], ["failed", "invalid"]);
  assert.deepEqual(server.said("conv_a"), ["and me?"]);
  await outbox.retry(failed.key);
  await until(isSent(outbox));
  const again = outbox.entries().find(({ status }) => status === "failed");
  assert.equal(again.key, failed.key);
  await outbox.discard(again.key);
  assert.ok(outbox.entries().every(({ status }) => status === "sent"));
  outbox.close();
});

test("sent again after a lost answer and a refusal it is still one turn", async () => {
  const server = new Server(["answer lost", "forbidden"]);
  const outbox = outboxOf(server);
  const { key } = await outbox.add("conv_a", { input: "Hi" });
  await until(isSent(outbox));
  assert.equal(outbox.entries()[0].error.code, "forbidden");
  await outbox.retry(key);
  await until(() => outbox.entries()[0].status === "sent");
  assert.deepEqual(server.said("conv_a"), ["Hi"]);
  outbox.close();
});

test("a message outlives a session that ends", async () => {
  const server = new Server(Array(6).fill("signed out"));
  const outbox = outboxOf(server);
  await outbox.add("conv_a", { input: "Hi" });
  await until(() => outbox.entries()[0].status === "sent");
  assert.deepEqual(server.said("conv_a"), ["Hi"]);
  outbox.close();
});

test("what waits for the network can be discarded", async () => {
  const server = new Server();
  server.isAway = true;
  const outbox = outboxOf(server, shared());
  const { key } = await outbox.add("conv_a", { input: "Hi" });
  await until(() => outbox.entries()[0].failures > 0);
  // Between two attempts, or at the next one.
  for (; outbox.entries().length; await setImmediate()) await outbox.discard(key);
  server.isAway = false;
  await outbox.add("conv_a", { input: "Other" });
  await until(isSent(outbox));
  assert.deepEqual(server.said("conv_a"), ["Other"]);
  outbox.close();
});

test("another user's messages are neither shown nor sent", async () => {
  const server = new Server();
  server.isAway = true;
  const storage = memoryStorage();
  const ada = outboxOf(server, { storage, user: "ada" });
  await ada.add("conv_a", { input: "Ada's" });
  ada.close();
  server.isAway = false;
  const bob = outboxOf(server, { storage, user: "bob" });
  await bob.add("conv_b", { input: "Bob's" });
  await until(isSent(bob));
  assert.deepEqual(server.turns.map(({ input }) => input), ["Bob's"]);
  assert.equal(storage.keys().length, 1);
  bob.close();
  assert.throws(() => outboxOf(server, { storage }), TypeError);
});

test("a message that may have arrived a day ago is not sent again", async () => {
  const server = new Server();
  const options = shared();
  const old = Date.now() - 24 * 3600 * 1000;
  const entry = {
    key: "k", lane: "conv_a", conversationId: "conv_a", draft: null, body: { input: "Hi" }, createdAt: old,
    firstAttemptAt: old, failures: 3, error: null, isFailed: false,
  };
  options.storage.setItem(`copilotd.outbox/acme%2Fada/${String(old).padStart(15, "0")}/k`, JSON.stringify(entry));
  options.storage.setItem("copilotd.outbox/acme%2Fada/0/broken", "{");
  const outbox = outboxOf(server, options);
  await until(() => outbox.entries()[0]?.status === "failed");
  assert.equal(outbox.entries()[0].error.code, "outcome_unknown");
  assert.equal(server.requests, 0);
  await outbox.retry("k");
  await until(() => server.turns.length === 1);
  assert.ok(!outbox.entries().some(({ key }) => key === "k"), "it has a new key");
  outbox.close();
});

test("is bounded, and says when the storage is full", async () => {
  const server = new Server();
  server.isAway = true;
  const outbox = outboxOf(server, { limit: 2 });
  await outbox.add("conv_a", { input: "1" });
  await outbox.add("conv_a", { input: "2" });
  await assert.rejects(outbox.add("conv_a", { input: "3" }), OutboxFullError);
  outbox.close();
  const storage = { ...memoryStorage(), setItem: () => Promise.reject(new Error("QuotaExceededError")) };
  const full = outboxOf(server, { ...shared(storage) });
  await assert.rejects(full.add("conv_a", { input: "1" }), /Quota/);
  assert.deepEqual(full.entries(), []);
  full.close();
});

test("listeners hear of changes, and the list is the same in between", async () => {
  const outbox = outboxOf(new Server());
  const seen = [];
  outbox.subscribe(() => seen.push(outbox.entries()[0]?.status));
  assert.equal(outbox.entries(), outbox.entries());
  await outbox.add("conv_a", { input: "Hi" });
  await until(isSent(outbox));
  assert.deepEqual([...new Set(seen.filter(Boolean))], ["queued", "sending", "sent"]);
  outbox.close();
});

/** `localStorage`, as far as it is used. */
function fakeWebStorage() {
  const map = new Map();
  return {
    get length() {
      return map.size;
    },
    key: (index) => [...map.keys()][index] ?? null,
    getItem: (key) => map.get(key) ?? null,
    setItem: (key, value) => void map.set(key, value),
    removeItem: (key) => void map.delete(key),
  };
}

for (const [name, make] of [
  ["memory", memoryStorage],
  ["localStorage", () => webStorage(fakeWebStorage())],
  ["IndexedDB", () => indexedDbStorage("test")],
]) {
  test(`stores in ${name}`, async () => {
    const storage = make();
    await storage.setItem("a", "1");
    await storage.setItem("b", "2");
    await storage.setItem("a", "3");
    await storage.removeItem("b");
    await storage.removeItem("missing");
    assert.deepEqual([await storage.keys(), await storage.getItem("a"), await storage.getItem("b")], [["a"], "3", null]);
  });
}
