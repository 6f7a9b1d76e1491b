// Functions of the host's page that the model calls through the widget: once, whatever tabs and reloads do.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { World } from "./widget.world.mjs";

const ASKS = 'Call open_page with {"path": "/orders"}';
const QUERY = { inline: true, tools: true };

describe("client tools in the widget", { timeout: 240_000, concurrency: 4 }, () => {
  const world = new World();
  before(() => world.start());
  after(() => world.stop());

  /** One story on a page of a user of its own. When it fails, what the page showed is told. */
  const story = (name, tell) =>
    it(name, async () => {
      const user = name.replaceAll(/\W+/g, "-");
      const chat = await world.open({ ...QUERY, user });
      try {
        await tell(chat, { ...QUERY, user });
        chat.clean();
      } catch (error) {
        console.error(`--- at the end of “${name}”\n${await chat.panel.innerText().catch(String)}\n${chat.faults.join("\n")}`);
        throw error;
      } finally {
        await chat.close();
      }
    });
  const runs = (chat) => chat.page.evaluate(() => Number(localStorage.getItem("runs")));
  const call = (chat, status) => chat.page.locator(`copilotd-chat .tool[data-status="${status}"]`);
  /** The newest turn's calls, as the server has them. */
  const calls = async (chat) => {
    const path = `/v1/conversations/${await chat.conversation()}/messages`;
    const { turns } = await world.server.call("GET", path, undefined, { user: chat.user });
    return turns.at(-1).tool_calls;
  };
  /** The tools are offered with the next message, and are not there when the call comes. */
  const withoutTools = (chat) =>
    chat.page.evaluate(() => {
      const chat = document.querySelector("copilotd-chat");
      globalThis.kept = chat.tools;
      addEventListener("copilotd-message", () => (chat.tools = null), { once: true });
    });
  /** Loses the requests to the calls' routes whose body is of a kind. */
  const lose = (chat, kind) =>
    chat.context.route("**/client-tools/*", (route) =>
      route.request().method() === "POST" && kind in route.request().postDataJSON() ? route.abort() : route.fallback(),
    );

  // First, because the server waits for a minute; the other stories are told meanwhile.
  story("a call that no page takes in time is told in words", async (chat) => {
    await withoutTools(chat);
    await chat.send(ASKS);
    await chat.panel.getByText("No open page answered in time, so this was not done.").waitFor({ timeout: 100_000 });
    await chat.accessible("a call that timed out");
    await chat.page.reload();
    await chat.panel.getByText("No open page answered in time, so this was not done.").waitFor();
    await chat.agrees();
  });

  story("the page's function is run, and the model has its result", async (chat) => {
    await chat.send(ASKS);
    await chat.reached("completed");
    await call(chat, "succeeded").locator("summary").click();
    await call(chat, "succeeded").getByText('"The page /orders"').waitFor();
    await chat.panel.getByText("Done. open_page answered").waitFor();
    await chat.accessible("a client tool");
    await chat.agrees();
    assert.equal(await runs(chat), 1);
  });

  story("what the function throws is told to the model", async (chat) => {
    await chat.send('Call open_page with {"path": "/nowhere"}');
    await chat.reached("completed");
    await call(chat, "failed").waitFor();
    await chat.panel.getByText("there is no such page").waitFor();
    await chat.agrees();
  });

  story("two open tabs run a call once", async (chat, query) => {
    await chat.send("[[sim tokens=3]] Begin");
    await chat.reached("completed");
    const tabs = [chat];
    for (let more = 0; more < 2; more += 1) {
      const tab = await world.open(query, { like: chat });
      await tab.reached("completed");
      tabs.push(tab);
    }
    await chat.send(ASKS);
    for (const tab of tabs) {
      await tab.reached("completed", 1);
      await call(tab, "succeeded").waitFor();
      await tab.agrees();
      tab.clean();
    }
    assert.equal(await runs(chat), 1);
  });

  story("a reload before the function is started: it is run then", async (chat) => {
    await lose(chat, "claim");
    const asked = chat.page.waitForEvent("requestfailed", (request) => /client-tools/.test(request.url()));
    await chat.send(ASKS);
    await asked;
    assert.equal(await runs(chat), 0);
    await chat.context.unroute("**/client-tools/*");
    await chat.page.reload();
    await chat.reached("completed");
    assert.equal(await runs(chat), 1);
    await chat.agrees();
  });

  story("a reload before the answer has arrived: it is sent again, and the function is not run again", async (chat) => {
    await lose(chat, "result");
    const answered = chat.page.waitForEvent("requestfailed", (request) => /client-tools/.test(request.url()));
    await chat.send(ASKS);
    await answered;
    await chat.context.unroute("**/client-tools/*");
    await chat.page.reload();
    await chat.reached("completed");
    assert.equal(await runs(chat), 1);
    assert.deepEqual((await calls(chat)).map(({ status, result }) => [status, result.title]), [
      ["succeeded", "The page /orders"],
    ]);
  });

  story("tools that are set late take the calls that wait", async (chat) => {
    await withoutTools(chat);
    await chat.send(ASKS);
    await call(chat, "proposed").waitFor();
    await chat.page.evaluate(() => (document.querySelector("copilotd-chat").tools = globalThis.kept));
    await chat.reached("completed");
    assert.equal(await runs(chat), 1);
  });

  story("a stopped answer takes its call from the page", async (chat) => {
    await lose(chat, "claim");
    await chat.send(ASKS);
    await call(chat, "proposed").waitFor();
    await chat.button("Stop the answer").click();
    await chat.reached("cancelled");
    await call(chat, "cancelled").waitFor();
    assert.equal(await runs(chat), 0);
  });

  story("tools that are none are told to the page's developer", async (chat) => {
    await chat.page.evaluate(() => (document.querySelector("copilotd-chat").tools = [{ name: "open_page" }]));
    await chat.send("[[sim tokens=3]] Hello");
    await chat.reached("completed");
    assert.match(chat.faults.splice(0).join("\n"), /tools must be a list of \{ name, description, parameters, run \}/);
  });
});
