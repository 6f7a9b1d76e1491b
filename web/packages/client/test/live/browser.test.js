// What only a browser has: two tabs with Web Locks and `localStorage`, a network that goes away, `EventSource`.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import test, { after, before } from "node:test";

import { build } from "esbuild";

import { Demo } from "./world.js";

const { COPILOTD_CHROMIUM: executablePath, COPILOTD_BROWSER_NODE_MODULES: modules } = process.env;
const skip = executablePath && modules ? false : "Chromium not found";

const demo = new Demo();
let browser;
let script;
before(async () => {
  if (skip) return;
  await demo.start();
  const { chromium } = createRequire(join(modules, "any.js"))("playwright-core");
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  const { outputFiles } = await build({
    stdin: {
      contents: 'export * from "./index.js"; export * from "./indexeddb.js"',
      resolveDir: join(import.meta.dirname, "../../dist"),
    },
    bundle: true,
    write: false,
    format: "esm",
  });
  script = outputFiles[0].text;
});
after(async () => {
  if (skip) return;
  await browser?.close();
  await demo.stop();
});

/** A page of the demo's origin with nothing on it but the client, as `copilotd`. */
async function open(context) {
  await context.route("**/blank.html", (route) => route.fulfill({ contentType: "text/html", body: "<title>Blank</title>" }));
  await context.route("**/client.js", (route) => route.fulfill({ contentType: "text/javascript", body: script }));
  await context.route("**/worker.js", (route) => route.fulfill({ contentType: "text/javascript", body: `(${worker})()` }));
  const page = await context.newPage();
  await page.goto(`${demo.url}/blank.html`);
  await page.evaluate(async (token) => {
    const client = await import("/client.js");
    const outbox = { storage: client.webStorage(localStorage), user: "acme/ada" };
    const backoff = { base: 50, cap: 200 };
    Object.assign(globalThis, { client, copilotd: client.createClient({ baseUrl: "", token: () => token, outbox, backoff }) });
  }, demo.token);
  return page;
}

/** Runs in a worker: answers a message through an outbox in IndexedDB. */
function worker() {
  onmessage = async ({ data: { token, input } }) => {
    const { createClient, indexedDbStorage } = await import("/client.js");
    const outbox = { storage: indexedDbStorage(), user: "acme/ada" };
    const copilotd = createClient({ baseUrl: "", token: () => token, outbox });
    const sent = new Promise((resolve) => {
      copilotd.outbox.subscribe(() => {
        const entry = copilotd.outbox.entries().find(({ status }) => status === "sent");
        if (entry) resolve(entry.turnId);
      });
    });
    await copilotd.outbox.add({ key: crypto.randomUUID(), body: {} }, { input });
    postMessage(await copilotd.turn(await sent).text());
  };
}

test("a worker has all of it", { skip }, async () => {
  const context = await browser.newContext();
  const page = await open(context);
  const text = await page.evaluate(
    ([token, input]) =>
      new Promise((resolve, reject) => {
        const worker = new Worker("/worker.js", { type: "module" });
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(new Error(message));
        worker.postMessage({ token, input });
      }),
    [demo.token, '[[sim text="From a worker"]] Hello'],
  );
  assert.equal(text, "From a worker");
  await context.close();
});

test("two tabs send what was written offline once and in order, and stream it", { skip }, async () => {
  const context = await browser.newContext();
  const [first, second] = [await open(context), await open(context)];
  const id = await first.evaluate(async () => (await copilotd.conversations.create()).id);
  await second.evaluate(() => void copilotd.outbox.entries());
  await context.setOffline(true);
  for (let n = 0; n < 6; n++) {
    const input = `[[sim tokens=3]] message ${n}`;
    await (n % 2 ? first : second).evaluate(([id, input]) => copilotd.outbox.add(id, { input }).then(() => {}), [id, input]);
  }
  await first.waitForFunction(() => copilotd.outbox.entries().length === 6);
  await second.waitForFunction(() => copilotd.outbox.entries().length === 6);
  const watched = second.evaluate((id) => {
    globalThis.view = client.openView(copilotd.conversation(id));
  }, id);
  await context.setOffline(false);
  await watched;
  const isDone = () => {
    const { turns } = view.getSnapshot();
    return turns.length === 6 && turns.every(({ status }) => status === "completed");
  };
  await second.waitForFunction(isDone, undefined, { timeout: 30_000 });
  const inputs = await second.evaluate(() => view.getSnapshot().turns.map(({ input }) => client.wordsOf(input).slice(-1)));
  assert.deepEqual(inputs, ["0", "1", "2", "3", "4", "5"]);
  await first.waitForFunction(() => !Object.keys(localStorage).some((key) => key.startsWith("copilotd.outbox")));
  await context.close();
});

test("a tab that is closed leaves its messages to the other one", { skip }, async () => {
  const context = await browser.newContext();
  const [first, second] = [await open(context), await open(context)];
  const id = await second.evaluate(async () => (await copilotd.conversations.create()).id);
  await second.evaluate(() => void copilotd.outbox.entries());
  await context.setOffline(true);
  await first.evaluate((id) => copilotd.outbox.add(id, { input: "[[sim tokens=3]] left" }).then(() => {}), id);
  await first.close();
  await context.setOffline(false);
  await second.waitForFunction(() => copilotd.outbox.entries().some(({ status }) => status === "sent"));
  const page = await second.evaluate((id) => copilotd.conversation(id).messages(), id);
  assert.equal(page.data.filter(({ role }) => role === "user").length, 1);
  await context.close();
});

test("an EventSource reads the stream of a ticket", { skip }, async () => {
  const context = await browser.newContext();
  const page = await open(context);
  const type = await page.evaluate(async () => {
    const conversation = await copilotd.conversations.create();
    const source = new EventSource(await conversation.streamUrl({ after: 1 }));
    const ended = new Promise((resolve) => source.addEventListener("turn.completed", ({ type }) => resolve(type)));
    await conversation.send("[[sim tokens=3]] Hello");
    return ended.finally(() => source.close());
  });
  assert.equal(type, "turn.completed");
  await context.close();
});
