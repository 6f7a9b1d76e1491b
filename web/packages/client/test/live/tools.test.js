// Client tools against the real server: two tabs, a `kill -9` while a function runs, and the example of the guide.

import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import test, { after, before } from "node:test";
import { pathToFileURL } from "node:url";

import { createClient } from "../../dist/index.js";
import { offersOf, runTools } from "../../dist/tools.js";
import { Demo } from "./world.js";

const demo = new Demo();
before(() => demo.start());
after(() => demo.stop());

const docs = process.env.COPILOTD_DOCS ?? resolve(import.meta.dirname, "../../../../../docs");
const client = () =>
  createClient({ baseUrl: demo.url, token: () => demo.token, backoff: { base: 20, cap: 200 }, retries: 40 });
const toolsOf = (run) => ({
  open_page: {
    description: "Opens a page.",
    parameters: { type: "object", properties: { path: { type: "string" } }, required: ["path"] },
    run,
  },
});
const ASKS = 'Call open_page with {"path": "/orders"}';

test("two tabs run a call once, also when the server is killed meanwhile", async () => {
  const conversation = await client().conversations.create();
  const runs = [];
  const tools = toolsOf(async ({ path }, { callId }) => {
    runs.push(callId);
    await demo.kill();
    await demo.start();
    return { title: `Page ${path}` };
  });
  const errors = [];
  const onError = (error) => errors.push(error);
  const runners = [1, 2].map(() => runTools(client().conversation(conversation.id), tools, { onError }));
  const turn = await conversation.send(ASKS, { clientTools: offersOf(tools) });
  assert.match(await turn.text(), /Page \/orders/);
  runners.forEach((runner) => runner.close());
  await Promise.all(runners.map(({ ended }) => ended));
  const { tool_calls } = await turn.get();
  assert.deepEqual(runs, tool_calls.map(({ id }) => id));
  assert.deepEqual(tool_calls.map(({ status, result }) => [status, result]), [["succeeded", { title: "Page /orders" }]]);
  assert.deepEqual(errors, []);
});

test("what a function throws is told to the model, and bad tools are refused", async () => {
  const conversation = await client().conversations.create();
  const tools = toolsOf(() => {
    throw new Error("there is no such page");
  });
  const runner = runTools(conversation, tools);
  const turn = await conversation.send(ASKS, { clientTools: offersOf(tools) });
  assert.match(await turn.text(), /there is no such page/);
  assert.equal((await turn.get()).tool_calls[0].status, "failed");
  runner.close();
  const taken = [{ ...offersOf(tools)[0], name: "zendesk_create_ticket" }];
  await assert.rejects(conversation.send(ASKS, { clientTools: taken }), { code: "invalid" });
});

test("a cancelled turn takes its call from the page", async () => {
  const conversation = await client().conversations.create();
  const tools = toolsOf(() => assert.fail("never claimed"));
  const turn = await conversation.send(ASKS, { clientTools: offersOf(tools) });
  let call;
  for await (const event of turn.events()) {
    if (event.type !== "client_tool.requested") continue;
    call = event.call_id;
    await turn.cancel();
  }
  await assert.rejects(turn.claim(call), { code: "not_waiting" });
  assert.equal((await turn.get()).tool_calls[0].status, "cancelled");
});

test("the guide's example runs as it stands", async () => {
  const guide = readFileSync(join(docs, "integrate/client-tools.md"), "utf8");
  const [example, ...others] = [...guide.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code);
  assert.equal(others.length, 0, "a new example is run here, too");
  globalThis.fetchUserToken = async () => demo.token;
  globalThis.openPage = async (path) => `The page ${path}`;
  // Beside the package, so that it finds itself by its name.
  const file = join(import.meta.dirname, "tools.generated.mjs");
  const code = example.replaceAll("https://copilotd.example.com", demo.url).replaceAll("console.log", "said.push");
  writeFileSync(file, `const said = [];\n${code}\nexport { said, turn };\n`);
  try {
    const { said, turn } = await import(pathToFileURL(file));
    assert.match(said[0], /The page \/orders/);
    assert.equal((await turn.get()).tool_calls[0].status, "succeeded");
  } finally {
    rmSync(file, { force: true });
  }
});
