import assert from "node:assert/strict";
import test, { afterEach } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import fc from "fast-check";

import { isTransient, openView } from "../dist/index.js";
import { fault, turns } from "./arbitraries.js";
import { checkState, clientOf, until } from "./check.js";
import { FakeServer, problem, timelineOf } from "./fake.js";

const views = [];
function viewOf(server, options = {}) {
  const view = openView(clientOf(server).conversation("conv_1"), { gather: 0, ...options });
  views.push(view);
  return view;
}
// A test that fails leaves its view open.
afterEach(() => {
  for (const view of views.splice(0)) view.close();
});
const isWhole = (view, timeline) => () => view.getSnapshot().position === String(timeline.at(-1).seq);

/** Reads all earlier pages, as a user does who scrolls up and tries again when that failed. */
async function scrollUp(view) {
  while (view.getSnapshot().cursor) {
    await view.loadEarlier().catch((error) => {
      if (!isTransient(error)) throw error;
    });
  }
}

test("random schedules of cuts and late openings end with the log", async () => {
  await fc.assert(
    fc.asyncProperty(turns(), fc.array(fault, { maxLength: 10 }), fc.nat(40), fc.nat(2), async (course, faults, now, gather) => {
      const timeline = timelineOf(course);
      const server = new FakeServer(timeline, { faults, now: Math.min(now, timeline.length) });
      const view = viewOf(server, { gather, pageSize: 3 });
      await until(isWhole(view, timeline), "the whole log");
      await scrollUp(view);
      checkState(view.getSnapshot(), timeline);
      view.close();
      assert.equal(view.getSnapshot().status, "closed");
      await until(() => server.open === 0, "the connection to be closed");
    }),
    { numRuns: 200, endOnFailure: true, includeErrorInReport: true },
  );
});

const COURSE = timelineOf([{ steps: [{ pieces: ["one"] }] }, { steps: [{ pieces: ["two ", "words"] }] }]);

test("reads all anew when the server does not know the position", async () => {
  const server = new FakeServer(COURSE, { now: 4 });
  let refusals = 1;
  const fetch = async (url, init) => {
    if (String(url).includes("/events") && refusals-- > 0) return problem(410, "not_resumable");
    return server.fetch(url, init);
  };
  const view = viewOf({ issue: server.issue, fetch });
  await until(isWhole(view, COURSE));
  checkState(view.getSnapshot(), COURSE);
  view.close();
});

test("says why nothing more comes", async () => {
  const view = viewOf({ fetch: async () => problem(404, "not_found") });
  await until(() => view.getSnapshot().status === "failed");
  assert.equal(view.getSnapshot().error.code, "not_found");
  view.close();
  assert.equal(view.getSnapshot().status, "failed");
});

test("an erased conversation is empty, and its stream ends", async () => {
  const erased = { type: "conversation.erased", seq: 99, data: { seq: 99, turn_id: null, at: "2026-11-30T12:00:00Z" } };
  const server = new FakeServer([...COURSE, erased], { now: 3 });
  const view = viewOf(server);
  await until(() => view.getSnapshot().status === "closed");
  assert.deepEqual([view.getSnapshot().isErased, view.getSnapshot().turns], [true, []]);
});

test("gathers changes: listeners hear of many events at once, and the value is the same in between", async () => {
  const timeline = timelineOf([{ steps: [{ pieces: Array.from({ length: 300 }, (_, n) => `${n} `) }] }]);
  const view = viewOf(new FakeServer(timeline, { now: 2 }), { gather: 20 });
  let calls = 0;
  const stop = view.subscribe(() => calls++);
  const first = view.getSnapshot();
  assert.equal(view.getSnapshot(), first);
  await until(isWhole(view, timeline));
  assert.ok(calls < 100, `${calls} calls for 300 deltas`);
  stop();
  const before = calls;
  view.close();
  assert.equal(calls, before);
});

test("a page that cannot be read loses nothing, and is there at the next try", async () => {
  const server = new FakeServer(COURSE, { now: COURSE.length });
  const view = viewOf(server, { pageSize: 2 });
  await until(isWhole(view, COURSE));
  // More than the client repeats by itself.
  server.faults.push(...Array.from({ length: 7 }, () => ({ kind: "proxy" })));
  const { turns, cursor } = view.getSnapshot();
  await assert.rejects(view.loadEarlier(), isTransient);
  assert.deepEqual([view.getSnapshot().turns, view.getSnapshot().cursor], [turns, cursor]);
  await scrollUp(view);
  checkState(view.getSnapshot(), COURSE);
});

test("a page that is read while everything is read anew is dropped", async () => {
  const server = new FakeServer(COURSE, { now: COURSE.length });
  const view = viewOf(server, { pageSize: 2 });
  await until(isWhole(view, COURSE));
  await Promise.all([view.loadEarlier(), view.loadEarlier()]);
  assert.equal(view.getSnapshot().turns.length, 2);
  const pages = server.requests.filter(({ pathname }) => pathname.endsWith("/messages")).length;
  await view.loadEarlier();
  assert.equal(server.requests.filter(({ pathname }) => pathname.endsWith("/messages")).length, pages);
  view.close();
  await sleep(0);
});
