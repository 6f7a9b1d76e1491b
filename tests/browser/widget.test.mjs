// What a person does with the widget on a customer's page, done in a real browser against the real program.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { SLOW, World, plain } from "./widget.world.mjs";

const TICKET = "Create a ticket about a broken export";

describe("the widget", { timeout: 580_000 }, () => {
  const world = new World();
  let chat;

  before(async () => {
    await world.start();
    chat = await world.open({ starter: ["[[sim tokens=5]] Where is my order?", "How do I pay?"] });
  });
  after(() => world.stop());

  /** One story. When it fails, what the page showed is told. */
  const story = (name, tell) =>
    it(name, async () => {
      const open = [chat];
      /** Opens another page; it is closed with the story. */
      const another = async (...given) => {
        const other = await world.open(...given);
        open.push(other);
        return other;
      };
      try {
        await tell(another);
        for (const each of open) each.clean();
      } catch (error) {
        for (const each of open)
          console.error(
            `--- at the end of “${name}”\n${await each.panel.innerText().catch(String)}\n${each.faults.join("\n")}\n---`,
          );
        throw error;
      } finally {
        chat.faults = [];
        for (const each of open.slice(1)) await each.close();
      }
    });
  const heard = (type) =>
    chat.page.evaluate((type) => heard.filter((event) => event.type === type).map(({ detail }) => detail), type);

  story("it opens, greets, and a starter begins the conversation", async () => {
    await chat.launcher.click();
    await chat.panel.getByText("Hello from Acme").waitFor();
    await chat.accessible("greeting");
    await chat.button("[[sim tokens=5]] Where is my order?").click();
    await chat.reached("completed");
    const log = await chat.agrees();
    assert.equal(log.length, 2);
    assert.deepEqual(await heard("copilotd-open"), [{ open: true }]);
    assert.deepEqual(
      (await heard("copilotd-message")).map(({ role }) => role),
      ["user", "assistant"],
    );
    const [turn] = (await heard("copilotd-message")).map(({ turnId }) => turnId);
    assert.equal((await world.server.call("GET", `/v1/turns/${turn}`)).metadata.page, "orders");
  });

  story("text streams in: two announcements, no layout shift, composer locked and Stop visible", async () => {
    await chat.begin();
    await chat.send("[[sim tokens=5]] First");
    await chat.reached("completed");
    await chat.page.waitForTimeout(1500);
    await chat.page.evaluate(() => {
      announced.length = 0;
      shifts.length = 0;
    });
    await chat.send("[[sim tokens=200 pace_ms=20]] Tell");
    // In one look, because the answer goes on meanwhile.
    await chat.page.waitForFunction(() => {
      const text = [...root().querySelectorAll(".markdown")].at(-1).textContent;
      return text.length > 40 && root().querySelector(".composer .stop") && root().querySelector("textarea").readOnly;
    });
    const some = await chat.written(40);
    await chat.accessible("streaming");
    assert.ok((await chat.written(some.length)).startsWith(some));
    await chat.reached("completed", 1);
    await chat.agrees();
    await chat.page.waitForFunction(() => announced.length >= 2);
    await chat.page.waitForTimeout(1000);
    assert.deepEqual(await chat.page.evaluate(() => announced), ["Answering", "Answer complete"]);
    assert.deepEqual(await chat.page.evaluate(() => shifts), []);
    const tree = await (await chat.context.newCDPSession(chat.page)).send("Accessibility.getFullAXTree");
    const live = tree.nodes.filter(
      ({ ignored, properties }) =>
        !ignored &&
        properties?.some(({ name, value }) => name === "live" && value.value !== "off" && value.value !== ""),
    );
    assert.deepEqual(
      [
        ...new Set(
          live.filter(({ role }) => ["status", "alert", "log"].includes(role.value)).map(({ role }) => role.value),
        ),
      ],
      ["status"],
    );
    assert.equal(await chat.composer.evaluate((field) => field.readOnly), false);
    assert.ok(
      await chat.composer.evaluate((field) => field.getRootNode().activeElement === field),
      "the focus is kept",
    );
  });

  story("tools are told, and their results can be read", async () => {
    await chat.begin();
    await chat.send("Summarise the unread tickets and alert #support");
    await chat.reached("completed");
    const tool = chat.page.locator('copilotd-chat .tool[data-status="succeeded"]').first();
    await tool.locator("summary").click();
    await tool.getByText('"tickets"').waitFor();
    await chat.accessible("tools");
    await chat.agrees();
  });

  story("an approved call is made as it was edited, also after a reload", async () => {
    await chat.begin();
    await chat.send(TICKET);
    const approval = chat.panel.getByRole("group", { name: /May I do this/ });
    await approval.waitFor();
    await chat.accessible("approval");
    await chat.page.reload();
    await approval.getByRole("button", { name: "Edit" }).click();
    await approval.getByLabel("subject").fill("The export breaks at 1,000 rows");
    await approval.getByRole("button", { name: "Approve" }).click();
    await chat.reached("completed");
    await chat.agrees();
    const { tickets } = await world.demo.outside("zendesk");
    assert.equal(tickets.filter(({ subject }) => subject === "The export breaks at 1,000 rows").length, 1);
    // The page was loaded while the call waited: the host hears of it again, once.
    assert.equal((await heard("copilotd-approval")).length, 1);
  });

  story("a rejected call is not made", async () => {
    await chat.begin();
    const before = (await world.demo.outside("zendesk")).tickets.length;
    await chat.send(TICKET);
    await chat.button("Reject").click();
    await chat.reached("completed");
    await chat.page.locator('copilotd-chat .tool[data-status="rejected"]').waitFor();
    await chat.agrees();
    assert.equal((await world.demo.outside("zendesk")).tickets.length, before);
  });

  story("where each argument comes from is told, if the server says so", async () => {
    await chat.begin();
    await chat.send(TICKET);
    await chat.button("Reject").waitFor();
    assert.equal(await chat.page.locator("copilotd-chat .origin").count(), 0);
    // What a server with provenance of arguments answers.
    await chat.page.route("**/messages?*", async (route) => {
      const answer = await route.fetch();
      const page = await answer.json();
      for (const call of page.turns.flatMap(({ tool_calls }) => tool_calls))
        call.origins = { subject: ["user", "zendesk_get_ticket"] };
      await route.fulfill({ response: answer, json: page });
    });
    await chat.page.reload();
    const subject = chat.page.locator("copilotd-chat .field", { hasText: "subject" });
    await subject.getByText("From: User").waitFor();
    await subject.getByText("From: Zendesk: get ticket").waitFor();
    await chat.accessible("origins of arguments");
    await chat.button("Reject").click();
    await chat.reached("completed");
    await chat.page.unroute("**/messages?*");
    await chat.agrees();
  });

  story("an approved call is made once", async () => {
    await chat.begin();
    const before = (await world.demo.outside("zendesk")).tickets.length;
    await chat.send("Create a ticket about being asked once");
    await chat.button("Approve").dblclick();
    await chat.reached("completed");
    await chat.agrees();
    assert.equal((await world.demo.outside("zendesk")).tickets.length, before + 1);
  });

  story("an answer is stopped, and keeps what it said", async () => {
    await chat.begin();
    await chat.send(SLOW);
    await chat.written(40);
    await chat.button("Stop the answer").click();
    await chat.reached("cancelled");
    await chat.panel.getByText("Answer stopped").first().waitFor();
    const [, { text }] = await chat.agrees();
    assert.ok(text.length >= 40);
  });

  story("a reload in mid-answer loses nothing and doubles nothing", async () => {
    await chat.begin();
    await chat.send(SLOW);
    const some = await chat.written(60);
    await chat.page.reload();
    const more = await chat.written(some.length);
    assert.ok(more.startsWith(some));
    await chat.reached("completed");
    assert.equal((await chat.agrees()).length, 2);
  });

  story("offline in mid-answer: it says so, and goes on", async () => {
    await chat.begin();
    await chat.send(SLOW);
    await chat.written(40);
    await chat.context.setOffline(true);
    // What is under way already is not cut by the browser's switch, so the answer may even end.
    await chat.page.waitForTimeout(500);
    await chat.context.setOffline(false);
    await chat.reached("completed");
    await chat.agrees();
  });

  story("what is sent offline waits, and arrives once", async () => {
    await chat.begin();
    await chat.send("[[sim tokens=3]] one");
    await chat.reached("completed");
    await chat.context.setOffline(true);
    await chat.send("[[sim tokens=3]] two");
    await chat.panel.getByText("Not sent yet").waitFor();
    await chat.accessible("offline");
    await chat.context.setOffline(false);
    await chat.reached("completed", 1);
    assert.equal((await chat.agrees()).length, 4);
  });

  story("a second tab shows the same, and both stay so", async (another) => {
    await chat.begin();
    await chat.send("[[sim tokens=5]] In the first tab");
    await chat.reached("completed");
    const second = await another({}, { like: chat });
    await second.agrees();
    await second.send("[[sim tokens=40 pace_ms=20]] In the second tab");
    await chat.reached("completed", 1);
    await second.reached("completed", 1);
    assert.deepEqual(await second.agrees(), await chat.agrees());
    await second.page.close();
    chat.clean();
    second.clean();
    second.close = () => undefined;
  });

  story("the server is killed and started again: the answer completes", async () => {
    await chat.begin();
    await chat.send(SLOW);
    await chat.written(60);
    await world.server.kill();
    await chat.panel.getByText("Connection lost. Reconnecting…").waitFor();
    await chat.accessible("reconnecting");
    await world.server.start();
    await chat.reached("completed");
    await chat.panel.getByText("Connection lost").waitFor({ state: "detached" });
    await chat.agrees();
  });

  story("a token that is refused is replaced, and nobody notices", async () => {
    await chat.begin();
    await chat.send("[[sim tokens=3]] one");
    await chat.reached("completed");
    const before = world.site.tokens;
    await world.server.kill();
    world.server.secret = `another secret ${"x".repeat(32)}`;
    await world.server.start();
    await chat.send("[[sim tokens=3]] two");
    await chat.reached("completed", 1);
    await chat.agrees();
    assert.ok(world.site.tokens > before);
  });

  story("a user who is not signed in reads a sentence, and can try again", async (another) => {
    const { token } = world.site;
    world.site.token = () => null;
    try {
      const other = await another();
      await other.launcher.click();
      await other.panel.getByText("Your sign-in could not be renewed.").waitFor();
      await other.accessible("signed out");
      world.site.token = token;
      await other.button("Try again").click();
      await other.panel.getByText("Hello from Acme").waitFor();
    } finally {
      world.site.token = token;
    }
  });

  story("a page that fails to give a token is asked again, at first and later", async (another) => {
    const other = await another({ refusals: 1 });
    await other.launcher.click();
    await other.panel.getByText("Hello from Acme").waitFor();
    await other.send("[[sim tokens=3]] one");
    await other.reached("completed");
    await other.page.evaluate(() => (globalThis.refusals = 2));
    await world.server.kill();
    world.server.secret = `a third secret ${"x".repeat(32)}`;
    await world.server.start();
    await other.send("[[sim tokens=3]] two");
    await other.reached("completed", 1);
    await other.agrees();
  });

  story("history: open, rename, delete", async () => {
    await chat.begin();
    await chat.send("[[sim tokens=3]] To be renamed");
    await chat.reached("completed");
    const id = await chat.conversation();
    const log = await chat.agrees();
    await chat.begin();
    await chat.button("Conversations").click();
    await chat.page.locator("copilotd-chat .history li").first().waitFor();
    await chat.accessible("history");
    await chat.panel
      .getByRole("button", { name: /^Rename: / })
      .first()
      .click();
    await chat.panel.getByRole("textbox", { name: "Rename" }).fill("My own words");
    await chat.page.keyboard.press("Enter");
    const entry = chat.panel.getByRole("button", { name: /^My own words/ });
    await entry.click();
    assert.deepEqual(await chat.agrees(id), log);
    await chat.button("Conversations").click();
    await chat.panel.getByRole("button", { name: "Delete: My own words" }).click();
    await chat.accessible("deleting");
    await chat.button("Delete").click();
    await chat.panel.getByRole("group", { name: "Delete this conversation for good?" }).waitFor({ state: "detached" });
    assert.equal(await entry.count(), 0);
    await assert.rejects(world.server.call("GET", `/v1/conversations/${id}`), /404/);
    await chat.button("Back to the conversation").click();
    await chat.panel.getByText("Hello from Acme").waitFor();
  });

  story("what is typed stays with its conversation", async () => {
    await chat.begin();
    await chat.send("[[sim tokens=3]] Said");
    await chat.reached("completed");
    const id = await chat.conversation();
    await chat.composer.fill("half a thought");
    await chat.begin();
    assert.equal(await chat.composer.inputValue(), "");
    await chat.button("Conversations").click();
    await chat.page.locator("copilotd-chat .history .entry").first().click();
    await chat.agrees(id);
    assert.equal(await chat.composer.inputValue(), "half a thought");
    await chat.composer.fill("");
    await chat.begin();
    await chat.composer.fill("another thought");
    await chat.button("Conversations").click();
    await chat.page.locator("copilotd-chat .history .entry").first().click();
    await chat.agrees(id);
    assert.equal(await chat.composer.inputValue(), "");
    await chat.page.reload();
    await chat.agrees(id);
    assert.equal(await chat.composer.inputValue(), "");
    await chat.begin();
    assert.equal(await chat.composer.inputValue(), "another thought");
    await chat.composer.fill("");
  });

  story("feedback with a comment is stored", async () => {
    await chat.begin();
    await chat.send("[[sim tokens=3]] Was this good?");
    await chat.reached("completed");
    await chat.button("Bad answer").click();
    await chat.panel.getByLabel("What could be better?").fill("It is made up");
    await chat.accessible("feedback");
    await chat.button("Send comment").click();
    await chat.panel.getByText("Thank you for your feedback.").waitFor();
    assert.equal(await chat.button("Bad answer").getAttribute("aria-pressed"), "true");
    const page = await world.server.call("GET", `/v1/conversations/${await chat.conversation()}/messages`);
    assert.deepEqual(
      page.turns.map(({ feedback }) => [feedback.rating, feedback.comment]),
      [[-1, "It is made up"]],
    );
  });

  story("a failure is told in words, and can be asked again", async () => {
    await chat.begin();
    await chat.send("[[sim status=400]] Are you there?");
    await chat.reached("failed");
    const said = await chat.page.locator("copilotd-chat .problem").allInnerTexts();
    assert.ok(said.length > 0);
    for (const text of said) assert.doesNotMatch(text, /[a-z]_[a-z]|[{}[\]]|\b[45]\d\d\b|error:/i, text);
    await chat.accessible("failed");
    const failed = chat.page.locator('copilotd-chat [data-turn][data-status="failed"]');
    const first = await failed.getAttribute("data-turn");
    await chat.button("Try again").click();
    // The new attempt takes the place of the first.
    const another = `copilotd-chat [data-turn][data-status="failed"]:not([data-turn="${first}"])`;
    await chat.page.locator(another).waitFor();
    assert.equal(await failed.count(), 1);
    await chat.agrees();
  });

  story("a conversation that is erased elsewhere is closed", async () => {
    await chat.begin();
    await chat.send("[[sim tokens=3]] To be erased");
    await chat.reached("completed");
    await world.server.call("DELETE", `/v1/conversations/${await chat.conversation()}`);
    await chat.panel.getByText("Hello from Acme").waitFor();
    await chat.send("[[sim tokens=3]] And on");
    await chat.reached("completed");
    await chat.agrees();
  });

  story("by keyboard alone", async (another) => {
    const other = await another({ user: "bob" });
    const { page } = other;
    const focused = () =>
      page.evaluate(
        () => root().activeElement?.getAttribute("aria-label") ?? root().activeElement?.textContent ?? null,
      );
    await other.launcher.waitFor();
    for (let presses = 0; (await focused()) !== "Open the chat"; presses += 1) {
      assert.ok(presses < 10, "the launcher is reached by Tab");
      await page.keyboard.press("Tab");
    }
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => root().activeElement?.matches("textarea"));
    await page.keyboard.type(TICKET);
    await page.keyboard.press("Enter");
    await other.button("Approve").waitFor();
    const seen = new Set();
    for (let presses = 0; (await focused()) !== "Approve"; presses += 1) {
      assert.ok(presses < 40, `Approve is reached by Shift+Tab: ${[...seen].join(", ")}`);
      seen.add(await focused());
      await page.keyboard.press("Shift+Tab");
    }
    await page.keyboard.press("Enter");
    await other.reached("completed");
    await other.agrees();
    await page.keyboard.press("Escape");
    assert.equal(await other.panel.isVisible(), false);
    assert.equal(await focused(), "Open the chat", "the focus goes back to the launcher");
  });

  story("Shift+Enter makes a line", async () => {
    await chat.begin();
    await chat.composer.fill("[[sim tokens=3]] one");
    await chat.composer.press("End");
    await chat.composer.press("Shift+Enter");
    await chat.page.keyboard.type("two");
    await chat.composer.press("Enter");
    await chat.reached("completed");
    const turn = await chat.page.locator("copilotd-chat .end").getAttribute("data-turn");
    assert.equal((await world.server.call("GET", `/v1/turns/${turn}`)).input, "[[sim tokens=3]] one\ntwo");
  });

  story("answers show their sources with the passage", async () => {
    const text = "A refund reaches the account of the customer within five working days after billing has approved it.";
    await world.server.document("refunds", { title: "Refunds", uri: "https://help.acme.example/refunds", text });
    await chat.begin();
    await chat.send("How many days until a refund reaches the account?");
    await chat.reached("completed");
    const sources = chat.panel.getByRole("list", { name: "Sources" });
    await sources.getByText("Refunds", { exact: true }).click();
    await sources.getByText(text).waitFor();
    assert.equal(await sources.getByRole("link").getAttribute("href"), "https://help.acme.example/refunds");
    await chat.accessible("sources");
    await chat.agrees();
  });

  const looks = {
    dark: [{ theme: "dark" }, { colorScheme: "light" }],
    "the system's dark": [{}, { colorScheme: "dark" }],
    Arabic: [{ lang: "ar" }, {}],
    German: [{ lang: "de" }, {}],
    Japanese: [{ lang: "ja" }, {}],
    "a phone": [{}, { viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true }],
    inline: [{ inline: true }, {}],
  };
  for (const [name, [query, options]] of Object.entries(looks))
    story(`in ${name}`, async (another) => {
      const other = await another({ ...query, user: `user-${name.replaceAll(/\W/g, "")}` }, options);
      if (!query.inline) await other.launcher.click();
      await other.panel.getByText("Hello from Acme").waitFor();
      await other.accessible(`${name}: greeting`);
      await other.send(TICKET);
      const approval = other.page.locator("copilotd-chat .approval");
      await approval.waitFor();
      await other.accessible(`${name}: approval`);
      await approval.locator(".primary").click();
      await other.reached("completed");
      await other.send(
        '[[sim text="# Title\\n\\n| a | b |\\n|---|--:|\\n| 1 | `2` |\\n\\n- [x] done\\n\\n```js\\nlet a;\\n```"]] Markdown',
      );
      await other.reached("completed", 1);
      await other.send("[[sim status=400]] Fail");
      await other.reached("failed");
      await other.accessible(`${name}: an answer and an error`);
      const box = await other.panel.boundingBox();
      const { width, height } = other.page.viewportSize();
      assert.ok(
        box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height,
        "it is on the screen",
      );
      if (query.lang === "ar") {
        assert.equal(await other.panel.evaluate((panel) => getComputedStyle(panel).direction), "rtl");
        assert.doesNotMatch(await other.page.locator("copilotd-chat .head").innerText(), /[a-z]{3}/i);
      }
      const wide = await other.panel.evaluate((panel) =>
        [...panel.querySelectorAll("*")]
          .filter(
            (element) =>
              !element.closest(".table, pre, .code") &&
              element.scrollWidth > element.clientWidth + 1 &&
              getComputedStyle(element).overflowX === "visible" &&
              element.clientWidth > 0 &&
              getComputedStyle(element).display !== "inline",
          )
          .map((element) => element.outerHTML.slice(0, 120)),
      );
      assert.deepEqual(wide, [], "nothing is wider than its place");
    });

  story("a thousand messages: few of them are in the document, and all can be read", async (another) => {
    const { id, said } = await world.server.past("carol", 1000);
    const other = await another({ user: "carol" });
    await other.launcher.click();
    await other.button("Conversations").click();
    await other.page.locator("copilotd-chat .history .entry").first().click();
    await other.panel.getByText(said.at(-1), { exact: true }).waitFor();
    const seen = new Set();
    let most = 0;
    for (let presses = 0; !seen.has(said[0]); presses += 1) {
      assert.ok(presses < 1500, `the first message is reached by scrolling: ${seen.size} were seen`);
      const { texts, count } = await other.page.evaluate(async () => {
        const list = root().querySelector(".list");
        const texts = [...list.querySelectorAll(".plain, .markdown")].map((message) => message.textContent);
        list.scrollTop -= list.clientHeight;
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        return { texts, count: root().querySelectorAll("*").length };
      });
      for (const text of texts) seen.add(plain(text));
      most = Math.max(most, count);
    }
    assert.ok(most < 1500, `${most} elements`);
    assert.deepEqual([...seen].sort(), [...said].sort());
    assert.equal((await world.server.log(id, "carol")).length, said.length);
  });
});
