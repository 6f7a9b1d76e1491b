import assert from "node:assert/strict";
import test from "node:test";

import { createElement as h } from "react";
import { create } from "react-test-renderer";

import { clientOf, until } from "../../client/test/check.js";
import { FakeServer, timelineOf } from "../../client/test/fake.js";
import { textOf } from "@copilotd/client";
import { useConversation, useTurn } from "../dist/index.js";

// What this renderer says about itself.
const { error } = console;
console.error = (message, ...rest) => String(message).includes("react-test-renderer is deprecated") || error(message, ...rest);

const PIECES = Array.from({ length: 50 }, (_, n) => `word ${n} `);
const COURSE = timelineOf([{ steps: [{ pieces: ["Hello"] }] }, { steps: [{ pieces: PIECES }] }]);

/** Renders a conversation and counts. */
function app(server, options = { gather: 0 }) {
  const client = clientOf(server);
  const seen = { lists: 0, turns: {}, texts: {}, latest: undefined };
  function Turn({ view, id }) {
    const turn = useTurn(view, id);
    seen.turns[id] = (seen.turns[id] ?? 0) + 1;
    if (turn) seen.texts[id] = textOf(turn);
    return h("p", null, turn ? textOf(turn) : "");
  }
  function List({ id }) {
    seen.latest = useConversation(client, id, options);
    seen.lists++;
    return seen.latest.turnIds.map((id) => h(Turn, { key: id, id, view: seen.latest.view }));
  }
  return { seen, client, List };
}

/** Each change is rendered by itself, as in a page. */
async function render(element, isDone) {
  const root = create(element);
  await until(isDone, "the page");
  return root;
}

test("text renders its own turn and nothing else", async () => {
  // The second turn has begun, and its first piece is out.
  const now = COURSE.findIndex(({ type, data }) => type === "message.delta" && data.turn_id === "turn_1");
  const server = new FakeServer(COURSE, { now });
  const { seen, client, List } = app(server);
  const root = await render(h(List, { id: "conv_1" }), () => seen.texts.turn_1);
  const listsBefore = seen.lists;
  const firstTurn = seen.turns.turn_0;
  await until(() => seen.texts.turn_1 === PIECES.join("") && !seen.latest.isBusy, "the whole text");
  assert.ok(seen.turns.turn_1 > 10, `the turn that is written was rendered ${seen.turns.turn_1} times`);
  assert.ok(seen.lists - listsBefore <= 1, `the list was rendered ${seen.lists - listsBefore} times`);
  assert.ok(seen.turns.turn_0 - firstTurn <= 1, "the other turn was rendered with the list only");
  root.unmount();
  await until(() => server.open === 0, "the stream to be closed");
  client.close();
});

test("another conversation closes the first one; none shows nothing", async () => {
  const server = new FakeServer(COURSE, { now: COURSE.length });
  const { seen, client, List } = app(server);
  const root = await render(h(List, { id: "conv_1" }), () => seen.latest?.turnIds.length === 2);
  assert.deepEqual(seen.latest.turnIds, ["turn_0", "turn_1"]);
  root.update(h(List, { id: null }));
  await until(() => server.open === 0 && seen.latest.view === null, "the stream to be closed");
  assert.deepEqual([seen.latest.turnIds, seen.latest.status, seen.latest.view], [[], "closed", null]);
  await assert.rejects(seen.latest.send("Hi"), TypeError);
  root.unmount();
  client.close();
});

test("a message is in the outbox until its turn is shown", async () => {
  const server = new FakeServer(COURSE, { now: 2 });
  const { fetch } = server;
  let accepted = 0;
  server.fetch = async (url, init) => {
    if (!String(url).endsWith("/turns")) return fetch(url, init);
    accepted++;
    return Response.json({ id: "turn_0" }, { status: 202 });
  };
  const { seen, client, List } = app(server);
  const root = await render(h(List, { id: "conv_1" }), () => seen.latest?.view);
  const entry = await seen.latest.send("Hi", { metadata: { a: 1 } });
  assert.equal(entry.status, "queued");
  await until(() => accepted === 1 && seen.latest.turnIds.includes("turn_0"), "the turn");
  await until(() => client.outbox.entries().length === 0, "the message to be settled");
  await until(() => seen.latest.outbox.length === 0, "the page to know");
  root.unmount();
  client.close();
});
