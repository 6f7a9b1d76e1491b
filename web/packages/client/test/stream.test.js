import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import fc from "fast-check";

import { NotFoundError, NotResumableError, UnexpectedAnswerError } from "../dist/index.js";
import { fault, turns } from "./arbitraries.js";
import { clientOf } from "./check.js";
import { bytesOf, FakeServer, problem, timelineOf } from "./fake.js";

/** Checks that events are those of the log behind `after`, each once and in order, with every byte of every text. */
function checkEvents(events, timeline, after = 0) {
  const records = timeline.filter((step) => step.seq > after).map(({ type, seq }) => `${seq} ${type}`);
  const durable = events.filter(({ type }) => type !== "message.delta").map(({ type, seq }) => `${seq} ${type}`);
  assert.deepEqual(durable, records);
  let text = "";
  for (const event of events) {
    if (event.type === "message.delta") {
      text += event.text;
      assert.equal(event.position, `${event.seq}.${bytesOf(text)}`);
    } else if (event.type === "message.completed") {
      assert.equal(text, event.text);
      text = "";
    } else if (event.type === "message.reset" || event.type === "turn.started") text = "";
  }
}

async function read(iterator, until, slow = () => undefined) {
  const events = [];
  for await (const event of iterator) {
    events.push(event);
    await slow();
    if (event.seq >= until && event.type !== "message.delta") break;
  }
  return events;
}

const lastOf = (timeline) => timeline.at(-1).seq;

test("random cuts, refusals, expired tokens and slow reads end with the log's bytes", async () => {
  await fc.assert(
    fc.asyncProperty(turns(), fc.array(fault, { maxLength: 12 }), fc.array(fc.boolean()), async (course, faults, slow) => {
      const timeline = timelineOf(course);
      const server = new FakeServer(timeline, { faults });
      const pauses = [...slow];
      const conversation = clientOf(server).conversation("conv_1");
      const isSlow = () => (pauses.pop() ? sleep(1) : undefined);
      const events = await read(conversation.events({ after: "0" }), lastOf(timeline), isSlow);
      checkEvents(events, timeline);
      assert.equal(server.open, 0, "every connection is closed");
    }),
    { numRuns: 300, endOnFailure: true, includeErrorInReport: true },
  );
});

test("a reader that stops anywhere goes on at that byte with another client", async () => {
  await fc.assert(
    fc.asyncProperty(turns(), fc.array(fc.nat(8), { maxLength: 8 }), async (course, stops) => {
      const timeline = timelineOf(course);
      const server = new FakeServer(timeline);
      const events = [];
      let after = "0";
      for (const stop of [...stops, Infinity]) {
        let left = stop;
        for await (const event of clientOf(server).conversation("conv_1").events({ after })) {
          events.push(event);
          after = event.position;
          if (event.seq === lastOf(timeline) || left-- <= 0) break;
        }
        if (events.at(-1)?.seq === lastOf(timeline)) break;
      }
      checkEvents(events, timeline);
    }),
    { numRuns: 200, endOnFailure: true, includeErrorInReport: true },
  );
});

const COURSE = timelineOf([{ steps: [{ pieces: ["Hello, ", "wörld", " 🚀!"] }] }]);

test("resumes with the position of the last whole event", async () => {
  const server = new FakeServer(COURSE, { faults: [{ kind: "cut", after: 700 }] });
  await read(clientOf(server).conversation("conv_1").events({ after: 0 }), lastOf(COURSE));
  const sent = server.requests.map(({ headers }) => headers.get("last-event-id"));
  assert.equal(sent[0], "0");
  assert.match(sent[1], /^\d+\.\d+$/);
});

test("without a position it begins at the end of the log, also when cut before the first event", async () => {
  const timeline = timelineOf([{ steps: [{ pieces: ["a"] }] }, { steps: [{ pieces: ["b"] }] }]);
  const second = timeline.findIndex(({ data }) => data.turn_id === "turn_1");
  const faults = [{}, { kind: "cut", after: 5, passes: 2 }];
  const server = new FakeServer(timeline, { now: second, faults });
  const after = server.seq;
  checkEvents(await read(clientOf(server).conversation("conv_1").events(), lastOf(timeline)), timeline, after);
});

test("a turn's stream ends after its terminal event, and with 204", async () => {
  const server = new FakeServer(COURSE);
  const events = await read(clientOf(server).turn("turn_0").events(), Infinity);
  assert.equal(events.at(-1).type, "turn.completed");
  const nothing = clientOf({ fetch: async () => new Response(null, { status: 204 }) });
  assert.deepEqual(await read(nothing.turn("turn_0").events({ after: 9 }), Infinity), []);
});

test("a connection that falls silent is given up", async () => {
  const server = new FakeServer(COURSE, { faults: [{ kind: "silent", after: 400 }] });
  const seen = [];
  const onStatus = (status, error) => seen.push(error ? `${status} ${error.detail}` : status);
  const events = clientOf(server).conversation("conv_1").events({ after: 0, silence: 15, onStatus });
  checkEvents(await read(events, lastOf(COURSE)), COURSE);
  assert.deepEqual(seen, ["connecting", "live", "reconnecting the stream fell silent", "live"]);
});

test("one renewal serves a stream and every request that waits for a token", async () => {
  const server = new FakeServer(COURSE);
  // Long enough for everybody to ask meanwhile.
  const client = clientOf(server, { token: () => sleep(5).then(server.issue) });
  await client.conversation("conv_1").get();
  server.token = "another";
  const calls = Array.from({ length: 20 }, () => client.conversation("conv_1").get());
  await Promise.all([read(client.conversation("conv_1").events({ after: 0 }), lastOf(COURSE)), ...calls]);
  assert.equal(server.issued, 2);
});

test("what does not pass is thrown", async () => {
  const answers = [
    [problem(404, "not_found"), NotFoundError],
    [problem(410, "not_resumable"), NotResumableError],
    [new Response("<p>Hello", { headers: { "content-type": "text/html" } }), UnexpectedAnswerError],
    [new Response("id: 1\ndata: {\n\n", { headers: { "content-type": "text/event-stream" } }), UnexpectedAnswerError],
  ];
  for (const [answer, Class] of answers) {
    const client = clientOf({ fetch: async () => answer });
    await assert.rejects(read(client.conversation("c").events({ after: 1 }), 9), Class);
  }
});

test("an unknown type is passed on, and an event without data is not", async () => {
  const body = "event: beat\ndata:\n\nid: 3\nevent: thought.shared\ndata: {\"seq\":3}\n\n";
  const client = clientOf({
    fetch: async () => new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8" } }),
  });
  const { value } = await client.conversation("c").events({ after: 1 }).next();
  assert.deepEqual(value, { type: "thought.shared", position: "3", seq: 3 });
});

test("nothing is read ahead of a reader that stands still", async () => {
  const pieces = Array.from({ length: 500 }, (_, n) => `piece ${n} `);
  const timeline = timelineOf([{ steps: [{ pieces }] }]);
  const server = new FakeServer(timeline);
  const events = clientOf(server).conversation("conv_1").events({ after: 0 });
  for (let i = 0; i < 10; i++) await events.next();
  const before = server.now;
  await sleep(20);
  assert.ok(server.now <= before + 2, `${server.now} of ${before} were produced`);
  await events.return();
  assert.equal(server.open, 0);
});

test("ends while it waits: by return, and by the signal with its reason", async () => {
  const server = new FakeServer(COURSE, { faults: [{ kind: "silent", after: 0 }, { kind: "silent", after: 0 }] });
  const events = clientOf(server).conversation("conv_1").events({ after: 0 });
  const waiting = events.next();
  await sleep(5);
  await events.return();
  assert.deepEqual(await waiting, { done: true, value: undefined });

  const controller = new AbortController();
  const others = clientOf(server).conversation("conv_1").events({ after: 0, signal: controller.signal });
  const pending = others.next();
  await sleep(5);
  controller.abort(new Error("enough"));
  await assert.rejects(pending, /enough/);
  assert.equal(server.open, 0);
});

test("a dead network is retried without limit, with waits", async () => {
  const faults = Array.from({ length: 40 }, () => ({ kind: "refused" }));
  const server = new FakeServer(COURSE, { faults });
  checkEvents(await read(clientOf(server).conversation("conv_1").events({ after: 0 }), lastOf(COURSE)), COURSE);
  assert.equal(server.requests.length, 41);
});
