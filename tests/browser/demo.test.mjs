// What a person does on the demo's page, done in a real browser against the real program.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { Demo, launch } from "./world.mjs";

/** Slow enough that a reload, a cancel or a kill falls into the middle of it. */
const SLOW = "[[sim tokens=150 pace_ms=80]] Tell me something long";

describe("the demo's page", { timeout: 420_000 }, () => {
  const demo = new Demo();
  let browser;
  let page;
  let faults = [];

  before(async () => {
    await demo.start();
    browser = await launch();
    page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
    page.setDefaultTimeout(30_000);
    page.on("pageerror", (error) => faults.push(String(error)));
    // Refusals and a server that is away are what some of the stories are about. All else is a fault, also what the
    // page's policy blocks.
    page.on("console", (message) => {
      const said = message.text();
      if (message.type() === "error" && !/^Failed to load resource|net::ERR_/.test(said)) faults.push(said);
    });
    await page.goto(demo.url);
  });

  after(async () => {
    await browser?.close();
    await demo.stop();
  });

  /** One story. When it fails, what the page showed is told. */
  const story = (name, tell) =>
    it(name, async () => {
      faults = [];
      try {
        await tell();
        assert.deepEqual(faults, [], "the browser's console");
      } catch (error) {
        console.error(
          `--- at the end of “${name}” (${page.url()})\n${await page.innerText("body").catch(String)}\n---`,
        );
        throw error;
      }
    });

  const begin = async () => {
    await page.getByRole("button", { name: "New" }).click();
    await page.getByText("Ask the support copilot").waitFor();
  };
  const send = async (text) => {
    await page.getByLabel("Message to the copilot").fill(text);
    await page.keyboard.press("Enter");
  };
  const turn = (number = 0) => page.locator("#turns > .turn").nth(number);
  const reached = (status, number = 0) =>
    page.locator(`#turns > .turn:nth-child(${number + 1})[data-status="${status}"]`).waitFor();
  /** Asserts that texts are sentences: no code, no JSON, no status, nothing internal. */
  const readable = (texts) => {
    assert.ok(texts.length > 0);
    for (const text of texts) assert.doesNotMatch(text, /[a-z]_[a-z]|[{}\[\]]|\b[45]\d\d\b|untrusted|error:/i, text);
  };
  const conversation = () => new URL(page.url()).hash.split("/").at(-1);
  const connection = (words) => page.locator("#connection", { hasText: words }).waitFor();
  /** Waits until the open message has at least so many characters, and returns them. */
  const written = async (length) => {
    const found = await page.waitForFunction((length) => {
      const text = document.querySelector(".message.open")?.textContent ?? "";
      return text.length >= length && text;
    }, length);
    return found.jsonValue();
  };
  /** What the server says the conversation's turns are. */
  const turns = async () => {
    const { data } = await demo.get(`/v1/conversations/${conversation()}/messages?limit=100`);
    const ids = data.filter((message) => message.role === "user").map((message) => message.turn_id);
    return Promise.all(ids.map((id) => demo.get(`/v1/turns/${id}`)));
  };
  /** Asserts that a turn's answer stands on the page whole and once. */
  const whole = async (number = 0) => {
    const shown = await turn(number).locator(".message").allTextContents();
    assert.deepEqual(shown, [(await turns())[number].output.text]);
  };

  story("text streams in", async () => {
    await begin();
    await send("[[sim tokens=40 pace_ms=30]] Hello");
    const some = await written(20);
    assert.ok((await written(some.length + 20)).startsWith(some));
    await reached("completed");
    await whole();
    await turn()
      .getByText(/tokens in.*out/)
      .waitFor();
    await turn().getByRole("button", { name: "Good answer" }).click();
    await turn().locator('.thumb[aria-pressed="true"]').waitFor();
  });

  story("a reload in mid-answer loses nothing and doubles nothing", async () => {
    await begin();
    await send(SLOW);
    const some = await written(60);
    await page.reload();
    const more = await written(some.length);
    assert.ok(more.startsWith(some));
    assert.ok((await written(more.length + 20)).startsWith(more), "it goes on live");
    await reached("completed");
    await whole();
  });

  story("tickets are read, and Slack is alerted", async () => {
    await begin();
    await page.getByRole("button", { name: "Summarise the unread tickets and alert #support" }).click();
    await reached("completed");
    await page.locator('.channel[data-name="#support"] li.fresh', { hasText: "unread tickets" }).waitFor();
    const call = turn().locator('.call[data-name="zendesk_search_tickets"][data-status="succeeded"]');
    await call.locator("summary").click();
    await call.getByText('"unread": true').waitFor();
    await call.getByText('"tickets"').waitFor();
    const before = await turn().innerText();
    await page.reload();
    await reached("completed");
    await turn().locator(".call summary").first().click();
    assert.equal(await turn().innerText(), before, "the same after a reload");
  });

  story("an answer from a help article shows its source", async () => {
    await begin();
    await page.getByRole("button", { name: "How long does a refund take?" }).click();
    await reached("completed");
    await whole();
    const source = turn().getByRole("list", { name: "Sources" }).getByRole("listitem");
    const link = source.getByRole("link", { name: "Refunds and invoices", exact: true });
    const [{ output }] = await turns();
    const [cited] = output.citations;
    for (const load of [() => undefined, () => page.reload()]) {
      await load();
      assert.equal(await link.getAttribute("href"), "https://help.acme.example/refunds");
      assert.equal(await source.locator("q").textContent(), cited.quote);
      assert.ok((await turn().locator(".message").textContent()).startsWith(cited.quote));
    }
    assert.equal(await source.count(), output.citations.length);
  });

  story("an approved ticket appears in Zendesk, as it was edited", async () => {
    await begin();
    await send("Create a ticket about a broken export");
    const approval = page.getByRole("group", { name: "Approval: Zendesk: create ticket" });
    await approval.getByText(/expires in (1:00:00|59:)/).waitFor();
    await page.reload();
    await approval.getByRole("button", { name: "Edit" }).click();
    await approval.getByLabel("subject").fill("");
    await approval.getByRole("button", { name: "Approve" }).click();
    await approval.getByRole("alert").getByText("Please fill in “subject”.").waitFor();
    await approval.getByLabel("subject").fill("The export breaks at 1,000 rows");
    await approval.getByRole("button", { name: "Approve" }).click();
    await page.locator(".ticket.fresh", { hasText: "The export breaks at 1,000 rows" }).waitFor();
    await reached("completed");
    const { tickets } = await demo.outside("zendesk");
    assert.equal(tickets.filter((ticket) => ticket.subject === "The export breaks at 1,000 rows").length, 1);
  });

  story("a rejected call is not made", async () => {
    await begin();
    const before = (await demo.outside("zendesk")).tickets.length;
    await send("Create a ticket about nothing at all");
    await page.getByRole("button", { name: "Reject" }).click();
    await reached("completed");
    await turn().getByText("rejected by ada").waitFor();
    assert.equal((await demo.outside("zendesk")).tickets.length, before);
  });

  story("an answer is cancelled, and keeps what it said", async () => {
    await begin();
    await send(SLOW);
    await written(40);
    await page.getByRole("button", { name: "Stop the answer" }).click();
    await reached("cancelled");
    await whole();
  });

  story("messages queue, and interrupt when wanted", async () => {
    await begin();
    await send(SLOW);
    await written(20);
    await send("[[sim tokens=5]] second");
    await turn(1).getByText("Queued, number 1 in line").waitFor();
    await page.getByLabel("While it answers, a new message").selectOption("interrupt");
    await send("[[sim tokens=5]] third");
    await reached("cancelled", 0);
    await reached("completed", 2);
    await reached("completed", 1);
    await page.getByLabel("While it answers, a new message").waitFor({ state: "hidden" });
  });

  story("a failure says what to do, and can be asked again", async () => {
    await begin();
    await send("[[sim status=400]] Are you there?");
    const said = "Please put your question in other words and ask again.";
    await turn().getByText(said).waitFor();
    await turn().getByRole("button", { name: "Ask again" }).click();
    await turn(1).getByText(said).waitFor();
    readable(await page.locator("#turns .failure").allInnerTexts());
  });

  story("a tool that fails is told in a sentence", async () => {
    await begin();
    await page.getByRole("button", { name: "A tool that fails" }).click();
    await reached("completed");
    await turn().getByText("Zendesk could not show this. Please check what you asked for, and ask again.").first().waitFor();
    await turn().locator(".call summary").first().click();
    readable(await turn().locator(".call .outcome, .message").allInnerTexts());
  });

  story("each tenant has its own Slack and Zendesk", async () => {
    await begin();
    await send('Post "Only Acme may read this" to #support');
    await reached("completed");
    const posted = page.locator("#slack .channel li", { hasText: "Only Acme may read this" });
    await posted.waitFor();
    await page.getByLabel("Tenant").selectOption("globex");
    await page.locator('#slack .channel[data-name="#support"] li').first().waitFor();
    await page.locator("#zendesk .ticket").first().waitFor();
    assert.equal(await posted.count(), 0);
    await page.goBack();
    await posted.waitFor();
  });

  story("a broken-off answer begins again", async () => {
    await begin();
    await send("[[sim tokens=40 pace_ms=10 cut_after=100 fail_times=1]] Try this");
    await turn().getByText("The answer was interrupted").waitFor();
    await reached("completed");
    await whole();
  });

  story("what a model says is never taken for HTML", async () => {
    await begin();
    const text = "<img src=x onerror=alert(1)> **bold** [link](javascript:alert(1)) https://example.com/a";
    await send(`[[sim text=${JSON.stringify(text)}]] Say it`);
    await reached("completed");
    const message = turn().locator(".message");
    assert.equal(await message.textContent(), text.replaceAll("**", ""));
    assert.equal(await message.locator("img").count(), 0);
    assert.deepEqual(await message.locator("a").evaluateAll((links) => links.map((link) => link.href)), [
      "https://example.com/a",
    ]);
  });

  story("a conversation is renamed and deleted, and is nobody else's", async () => {
    await begin();
    await send("[[sim tokens=3]] Hello");
    await reached("completed");
    await page.getByRole("button", { name: "Rename the conversation" }).click();
    await page.getByLabel("Title of the conversation").fill("My own words");
    await page.keyboard.press("Enter");
    const entry = page.locator("#conversations li", { hasText: "My own words" });
    await entry.waitFor();
    await page.getByLabel("User").selectOption("bob");
    await entry.waitFor({ state: "detached" });
    await page.goBack();
    await entry.waitFor();
    await page.getByRole("button", { name: "Delete the conversation" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await entry.waitFor({ state: "detached" });
  });

  story("the server is killed and started again: the page recovers and the answer completes", async () => {
    await begin();
    await send(SLOW);
    await written(60);
    await demo.kill();
    await connection("Reconnecting…");
    await send("[[sim tokens=5]] Sent while nobody listens");
    await page.getByText("Not sent yet; trying again…").waitFor();
    await demo.start();
    await connection("Live");
    await turn().getByText("The server was restarted in mid-answer").waitFor();
    await reached("completed", 0);
    await reached("completed", 1);
    await whole(0);
    await whole(1);
    assert.equal((await turns()).length, 2, "what was sent again is one turn");
    await page.locator("#outbox > *").waitFor({ state: "detached" });
    await page.locator("#slack-state", { hasText: /^$/ }).waitFor({ state: "attached" });
  });

  story("a long paste arrives whole", async () => {
    await begin();
    const text = `[[sim tokens=5]] ${"all of this ".repeat(3000)}the end`;
    await send(text);
    await reached("completed", 0);
    const [{ input }] = await turns();
    assert.equal(input, text);
  });

  story("twenty times killed and started again: the page is there each time", async () => {
    await begin();
    for (let round = 0; round < 20; round++) {
      await demo.kill();
      await demo.start();
      // Some people reload, and some wait.
      if (round % 4 === 3) await page.reload();
      await send(`[[sim tokens=5 pace_ms=0]] Round ${round}`);
      await reached("completed", round);
      await connection("Live");
      for (const name of ["slack", "zendesk"])
        await page.locator(`#${name}-state`, { hasText: /^$/ }).waitFor({ state: "attached" });
    }
    assert.equal((await turns()).length, 20);
  });
});
