// The client against the real server, behind a proxy that cuts, through restarts by `kill -9`.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { createClient, openView, textOf, wordsOf } from "../../dist/index.js";
import { until } from "../check.js";
import { Demo, Proxy } from "./world.js";

const demo = new Demo();
const proxy = new Proxy(demo);
before(async () => {
  await demo.start();
  await proxy.listen();
});
after(async () => {
  proxy.close();
  await demo.stop();
});

const client = (more = {}) =>
  createClient({
    baseUrl: proxy.url,
    token: () => demo.token,
    backoff: { base: 20, cap: 200 },
    retries: 40,
    ...more,
  });
/** Numbers that are the same in every run. */
function randomOf(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Concatenated deltas of each message, and the numbers of the durable events. */
function fold(events) {
  const texts = new Map();
  const numbers = [];
  for (const event of events) {
    if (event.type === "message.delta") {
      texts.set(event.message_id, (texts.get(event.message_id) ?? "") + event.text);
      continue;
    }
    numbers.push(event.seq);
    if (event.type === "message.reset") texts.delete(event.message_id);
    if (event.type === "message.completed") assert.equal(texts.get(event.message_id) ?? "", event.text);
  }
  return numbers;
}

/** More by a command: `COPILOTD_SCHEDULES=1000 scripts/web --live`. */
const schedules = Number(process.env.COPILOTD_SCHEDULES ?? 6);

for (let seed = 1; seed <= schedules; seed++) {
  test(`schedule ${seed}: cuts, a restart and slow reads end with the log's text`, async () => {
    const random = randomOf(seed);
    const conversation = await client().conversations.create();
    const turn = await conversation.send(`[[sim tokens=${60 + random(60)} pace_ms=${4 + random(8)}]] Tell me something long ä🚀`);
    proxy.cuts = Array.from({ length: 4 + random(6) }, () => 200 + random(3000));
    const view = openView(conversation, { gather: 0 });
    const disturb = async () => {
      for (let i = 0; i < 3; i++) {
        await sleep(random(150));
        proxy.cut();
      }
      if (seed % 2) return;
      await demo.kill();
      await sleep(random(100));
      await demo.start();
    };
    const disturbed = disturb();
    const events = [];
    for await (const event of turn.events()) {
      events.push(event);
      if (random(4) === 0) await sleep(random(20));
    }
    await disturbed;
    const numbers = fold(events);
    assert.deepEqual(numbers, [...new Set(numbers)].sort((a, b) => a - b), "each record once, in order");
    const { status, output } = await turn.get();
    assert.equal(status, "completed");
    assert.equal(events.at(-1).type, "turn.completed");
    assert.equal(events.findLast(({ type }) => type === "message.completed").text, output.text);

    await until(() => view.getSnapshot().turns[0]?.status === "completed", "the view to be complete");
    const { data } = await conversation.messages({ limit: 100 });
    const said = data.filter(({ role }) => role === "assistant").map(({ content }) => wordsOf(content));
    const [shown] = view.getSnapshot().turns;
    assert.deepEqual(shown.items.filter(({ kind }) => kind === "text").map(({ text }) => text), said);
    assert.equal(textOf(shown), output.text);
    view.close();
    proxy.cuts = [];
  });
}

test("messages written through cuts and a restart become one turn each, in order", async () => {
  const api = client();
  const random = randomOf(99);
  const draft = { key: `draft-${Date.now()}`, body: { title: "Offline" } };
  await demo.kill();
  for (let n = 0; n < 6; n++) await api.outbox.add(draft, { input: `[[sim tokens=3]] message ${n}` });
  proxy.cuts = Array.from({ length: 8 }, () => random(400));
  await demo.start();
  await until(() => api.outbox.entries().every(({ status }) => status === "sent"), "everything to be sent", 60_000);
  const id = api.outbox.entries()[0].conversationId;
  const { data } = await api.conversation(id).messages({ limit: 100 });
  const said = data.filter(({ role }) => role === "user").map(({ content }) => wordsOf(content).slice(-1));
  assert.deepEqual(said, ["0", "1", "2", "3", "4", "5"]);
  api.close();
});

test("a refusal is not remembered under its key, and an answer is", async () => {
  const conversation = await client().conversations.create();
  const idempotencyKey = "the-same";
  await assert.rejects(conversation.send([], { idempotencyKey }), { code: "invalid" });
  const first = await conversation.send("[[sim tokens=3]] Hi", { idempotencyKey });
  assert.equal((await conversation.send("[[sim tokens=3]] Hi", { idempotencyKey })).id, first.id);
  await assert.rejects(conversation.send("Other", { idempotencyKey }), { code: "idempotency_key_reused" });
});

test("approvals, cancelling, feedback, titles, lists and erasure", async () => {
  const api = client();
  const conversation = await api.conversations.create({ title: "First" });
  await conversation.rename("Second");
  const turn = await conversation.send("Open a ticket: the printer is on fire");
  let decided = 0;
  for await (const event of turn.events()) {
    if (event.type === "approval.requested") {
      decided++;
      await turn.approve(event.call_id);
    }
  }
  const done = await turn.get();
  assert.equal(done.status, "completed");
  assert.equal(decided, done.tool_calls.filter(({ name }) => name === "zendesk_create_ticket").length);
  await turn.feedback(1, { comment: "Good" });
  const page = await conversation.messages();
  assert.deepEqual(page.turns[0].feedback, { rating: 1, comment: "Good" });

  const slow = await conversation.send("[[sim tokens=500 pace_ms=50]] Tell me something long");
  for await (const event of slow.events()) if (event.type === "message.delta") break;
  await slow.cancel();
  await assert.rejects(slow.text(), { code: "cancelled" });

  const titles = [];
  for await (const { id, title } of api.conversations.all()) if (id === conversation.id) titles.push(title);
  assert.deepEqual(titles, ["Second"]);
  const answer = await fetch(await conversation.streamUrl({ after: 1 }));
  assert.equal(answer.status, 200);
  await answer.body.cancel();

  const events = conversation.events();
  const waiting = (async () => {
    const types = [];
    for await (const { type } of events) types.push(type);
    return types;
  })();
  await sleep(50);
  await conversation.delete();
  assert.deepEqual(await Promise.race([waiting, sleep(10_000)]), ["conversation.erased"]);
  await conversation.delete();
  await assert.rejects(conversation.get(), { code: "not_found" });
});
