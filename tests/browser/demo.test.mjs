// What a person does on the demo's page, done in a real browser against the real program.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { Demo, launch, replace } from "./world.mjs";

/** Slow enough that a reload, a cancel or a kill falls into the middle of it. */
const SLOW = "[[sim tokens=150 pace_ms=80]] Tell me something long";

describe("the demo's page", { timeout: 720_000 }, () => {
  const demo = new Demo();
  let browser;
  let page;
  let faults = [];

  before(async () => {
    await demo.start();
    browser = await launch();
    page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
    page.setDefaultTimeout(30_000);
    await replace(page.context(), demo.url);
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
        const shown = await page.evaluate(() => [
          document.body.innerText,
          document.querySelector("copilotd-chat")?.shadowRoot?.querySelector(".panel")?.innerText,
        ]).catch(String);
        console.error(`--- at the end of “${name}” (${page.url()})\n${[shown].flat().join("\n--- chat\n")}\n---`);
        throw error;
      }
    });

  /** The chat. Playwright looks into its shadow root. */
  const chat = () => page.locator("copilotd-chat");
  const tab = (name) => page.getByRole("navigation").getByRole("link", { name }).click();
  const begin = async () => {
    await tab("Product");
    await chat().getByRole("button", { name: "New conversation" }).click();
    await chat().getByRole("list", { name: "Suggestions" }).waitFor();
  };
  /** Does what begins a turn, and waits until the activity strip shows that turn: before, it shows the one before. */
  const asking = async (act) => {
    const newest = () => page.locator("#turns > .turn").evaluateAll((nodes) => nodes[0]?.dataset.id ?? "");
    const before = await newest();
    await act();
    await page.waitForFunction((before) => {
      const id = document.querySelector("#turns > .turn")?.dataset.id;
      return id && id !== before;
    }, before);
  };
  const type = async (text) => {
    const field = chat().getByLabel("Message", { exact: true });
    await field.fill(text);
    await field.press("Enter");
  };
  const send = (text) => asking(() => type(text));
  const starter = (name) => asking(() => chat().getByRole("button", { name }).click());
  const trial = (name) =>
    asking(() => page.getByRole("group", { name: "Things to try" }).getByRole("button", { name }).click());
  /** A turn in the activity strip, which lists the newest first. */
  const turn = (number = 0) => page.locator(`#turns > .turn:nth-last-child(${number + 1})`);
  const reached = (status, number = 0) =>
    page.locator(`#turns > .turn:nth-last-child(${number + 1})[data-status="${status}"]`).waitFor();
  const answer = () => chat().locator(".message.assistant").last();
  /** Asserts that texts are sentences: no code, no JSON, no status, nothing internal. */
  const readable = (texts) => {
    assert.ok(texts.length > 0);
    for (const text of texts) assert.doesNotMatch(text, /[a-z]_[a-z]|[{}\[\]]|\b[45]\d\d\b|untrusted|error:/i, text);
  };
  const connection = (words) => page.locator("#connection", { hasText: words }).waitFor();
  /** Waits until the answer in the chat has at least so many characters, and returns them. */
  const written = async (length) => {
    const found = await page.waitForFunction((length) => {
      const root = document.querySelector("copilotd-chat")?.shadowRoot;
      const text = [...(root?.querySelectorAll(".message.assistant") ?? [])].at(-1)?.textContent ?? "";
      return text.length >= length && text;
    }, length);
    return found.jsonValue();
  };
  /** What the server says the turns are that the strip shows. */
  const turns = async () => {
    const ids = await page.locator("#turns > .turn").evaluateAll((nodes) => nodes.map((node) => node.dataset.id));
    return Promise.all(ids.reverse().map((id) => demo.get(`/v1/turns/${id}`)));
  };
  /** Asserts that the newest turn's answer stands in the chat, whole and once. */
  const whole = async () => {
    const { output } = (await turns()).at(-1);
    await page.waitForFunction((text) => {
      const root = document.querySelector("copilotd-chat")?.shadowRoot;
      return [...(root?.querySelectorAll(".message.assistant") ?? [])].at(-1)?.textContent === text;
    }, output.text);
    const shown = await chat().locator(".message.assistant").allTextContents();
    assert.equal(shown.filter((text) => text === output.text).length, 1);
  };

  story("text streams in", async () => {
    await begin();
    await type("[[sim tokens=60 pace_ms=60]] Hello");
    const some = await written(20);
    assert.ok((await written(some.length + 20)).startsWith(some));
    await reached("completed");
    await whole();
    const figures = turn().locator(".figures");
    for (const name of ["tokens in", "tokens out", "cost", "model", "first word", "finished"])
      await figures.getByText(name, { exact: true }).waitFor();
    await chat().getByRole("button", { name: "Good answer" }).click();
    await chat().locator('[aria-pressed="true"]').waitFor();
    await page.reload();
    await chat().locator('[aria-pressed="true"]').waitFor();
  });

  story("a reload in mid-answer loses nothing and doubles nothing", async () => {
    await begin();
    // Still being written when a slow machine has loaded the page again.
    await type("[[sim tokens=300 pace_ms=100]] Tell me something long");
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
    await starter("Summarise the unread tickets and alert #support");
    await reached("completed");
    const call = turn().locator('.call[data-name="zendesk_search_tickets"][data-status="succeeded"]');
    await call.locator("summary").click();
    await call.getByText('"unread": true').waitFor();
    await call.getByText('"tickets"').waitFor();
    const before = await turn().innerText();
    await page.locator('.tabs [data-to="slack"] .count', { hasText: /^\d+$/ }).waitFor();
    await tab("Slack");
    await page.locator('#messages[data-name="#support"] .message.fresh', { hasText: "unread tickets" }).waitFor();
    await page.reload();
    await tab("Product");
    await reached("completed");
    await turn().locator(".call summary").first().click();
    assert.equal(await turn().innerText(), before, "the same after a reload");
  });

  story("an answer from a help article shows its source", async () => {
    await begin();
    await starter("How long does a refund take?");
    await reached("completed");
    const [{ output }] = await turns();
    const [cited] = output.citations;
    const source = chat().getByRole("list", { name: "Sources" }).getByRole("listitem");
    for (const load of [() => undefined, () => page.reload()]) {
      await load();
      await source.first().getByText("Refunds and invoices").click();
      assert.equal(await source.first().getByRole("link").getAttribute("href"), "https://help.acme.example/refunds");
      assert.equal(await source.first().locator("q").textContent(), cited.quote);
      assert.ok((await answer().textContent()).startsWith(cited.quote));
    }
    assert.equal(await source.count(), output.citations.length);
    await turn().getByText(`${output.citations.length} cited`).waitFor();
  });

  story("an approved ticket appears in Zendesk, as it was edited", async () => {
    await begin();
    await send("Create a ticket about a broken export");
    const approval = chat().getByRole("group", { name: /^May I do this\?/ });
    await approval.getByText(/^Answer by/).waitFor();
    await reached("awaiting_approval");
    await page.reload();
    await approval.getByRole("button", { name: "Edit" }).click();
    await approval.getByLabel("subject").fill("");
    await approval.getByRole("button", { name: "Approve" }).click();
    await approval.getByRole("alert").waitFor();
    readable(await approval.getByRole("alert").allInnerTexts());
    await approval.getByLabel("subject").fill("The export breaks at 1,000 rows");
    await approval.getByRole("button", { name: "Approve" }).click();
    await reached("completed");
    await page.locator('.tabs [data-to="zendesk"] .count', { hasText: /^\d+$/ }).waitFor();
    await tab("Zendesk");
    const ticket = page.locator(".ticket.fresh", { hasText: "The export breaks at 1,000 rows" });
    await ticket.getByRole("link").click();
    await page.locator("#ticket").getByRole("heading", { name: "The export breaks at 1,000 rows" }).waitFor();
    await page.locator("#ticket .comments li").first().waitFor();
    const { tickets } = await demo.outside("zendesk");
    assert.equal(tickets.filter((ticket) => ticket.subject === "The export breaks at 1,000 rows").length, 1);
  });

  story("a rejected call is not made", async () => {
    await begin();
    const before = (await demo.outside("zendesk")).tickets.length;
    await send("Create a ticket about nothing at all");
    await chat().getByRole("button", { name: "Reject" }).click();
    await reached("completed");
    await turn().getByText("rejected by ada").waitFor();
    assert.equal((await demo.outside("zendesk")).tickets.length, before);
  });

  story("an answer is stopped, and keeps what it said", async () => {
    await begin();
    await send(SLOW);
    await written(40);
    await chat().getByRole("button", { name: "Stop the answer" }).click();
    await reached("cancelled");
    await whole();
  });

  story("messages queue, and interrupt when wanted", async () => {
    await begin();
    await send(SLOW);
    await written(20);
    const another = async (text) => {
      await page.getByLabel("Another message, while the copilot answers").fill(text);
      await page.keyboard.press("Enter");
    };
    await another("[[sim tokens=5]] second");
    await turn(1).getByText("queued, number 1 in line").waitFor();
    await page.getByLabel("While it answers, a new message").selectOption("reject");
    await another("[[sim tokens=5]] refused");
    await page.locator("#activity-problem", { hasText: /\w/ }).waitFor();
    await page.getByLabel("While it answers, a new message").selectOption("interrupt");
    await another("[[sim tokens=5]] third");
    await reached("cancelled", 0);
    await reached("completed", 2);
    await reached("completed", 1);
    await page.getByLabel("While it answers, a new message").waitFor({ state: "hidden" });
    assert.equal((await turns()).length, 3);
  });

  story("a failure says what to do, and can be asked again", async () => {
    await begin();
    await send("[[sim status=400]] Are you there?");
    await reached("failed");
    const said = chat().locator('.end[data-status="failed"] .problem');
    await said.first().waitFor();
    readable([(await said.first().innerText()).replace(/Reference: \S+/, "")]);
    await chat().getByRole("button", { name: "Try again" }).click();
    await reached("failed", 1);
    await turn(1).locator(".problem", { hasText: "provider_rejected" }).waitFor();
  });

  story("a tool that fails is told in a sentence", async () => {
    await begin();
    await trial("A tool that fails");
    await reached("completed");
    await turn().locator('.call[data-status="failed"]').first().waitFor();
    const tool = chat().locator('.tool[data-status="failed"] .state');
    await tool.first().waitFor();
    readable([...(await tool.allInnerTexts()), await answer().innerText()]);
  });

  story("each tenant has its own Slack and Zendesk", async () => {
    await begin();
    await send('Post "Only Acme may read this" to #support');
    await reached("completed");
    await tab("Slack");
    const posted = page.locator("#messages .message", { hasText: "Only Acme may read this" });
    await posted.waitFor();
    await page.getByLabel("Tenant").selectOption("globex");
    await page.locator('#messages[data-name="#support"] .message').first().waitFor();
    assert.equal(await posted.count(), 0);
    await tab("Zendesk");
    await page.locator(".ticket").first().waitFor();
    assert.equal(await page.getByText("The export breaks at 1,000 rows").count(), 0);
    await page.goBack();
    await page.goBack();
    await posted.waitFor();
  });

  story("a person writes in Slack, and answers in a thread", async () => {
    await tab("Slack");
    await page.getByRole("list", { name: "Channels" }).getByRole("link", { name: "#general" }).click();
    const field = page.getByLabel("Message to the channel");
    await field.fill("Is *anyone* there? <b>bold</b>");
    await field.press("Enter");
    const thread = page.locator('.thread[data-channel="#general"]', { hasText: "Is anyone there? <b>bold</b>" });
    await thread.getByText("Ada Colleague").waitFor();
    assert.equal(await thread.locator("b").count(), 0);
    assert.equal(await thread.locator("strong", { hasText: "anyone" }).count(), 1);
    await page.getByLabel("User").selectOption("bob");
    await page.getByRole("list", { name: "Channels" }).getByRole("link", { name: "#general" }).click();
    await thread.hover();
    await thread.getByRole("button", { name: "Reply in thread" }).click();
    await page.getByText("Replying to Ada Colleague").waitFor();
    await field.fill("I am");
    await page.locator("#write").getByRole("button", { name: "Send" }).click();
    await thread.locator(".replies .message", { hasText: "Bob Colleague" }).getByText("I am").waitFor();
    assert.equal(await field.inputValue(), "");
    const { channels } = await demo.outside("slack");
    const { messages } = channels.find(({ name, account }) => name === "general" && account === "acme");
    const [asked, replied] = messages.slice(-2);
    assert.deepEqual([asked.user, replied.user, replied.thread_ts], ["U0SIMADA01", "U0SIMBOB01", asked.ts]);
    await page.getByLabel("User").selectOption("ada");
  });

  story("what strangers write in a ticket is never taken for HTML", async () => {
    await tab("Zendesk");
    const subject = '<img src=x onerror="alert(1)"> <script>alert(2)</script>';
    const created = await fetch(`${demo.about.sim.zendesk}/api/v2/tickets.json`, {
      method: "POST",
      headers: { authorization: "Bearer acme-zendesk-token", "content-type": "application/json" },
      body: JSON.stringify({ ticket: { subject, comment: { body: `${subject} in a comment` } } }),
    });
    assert.equal(created.status, 201);
    await page.locator(".ticket.fresh", { hasText: subject }).getByRole("link").click();
    await page.locator("#ticket").getByText(`${subject} in a comment`).waitFor();
    assert.equal(await page.locator(".zendesk :is(img, script)").count(), 0);
  });

  story("the product asks the copilot about an invoice", async () => {
    await begin();
    await asking(() => page.getByRole("button", { name: "Ask the copilot about 2026-1042" }).click());
    await reached("completed");
    const [{ input }] = await turns();
    assert.equal(input, "Is there a ticket about invoice 2026-1042?");
  });

  story("the copilot opens an invoice on the page", async () => {
    await begin();
    await trial("A function of this page");
    const invoice = page.getByRole("region", { name: "The invoice that is open" });
    await invoice.getByText("Invoice 2026-1044").waitFor();
    await invoice.getByText("Saltmarsh Hotels").waitFor();
    await page.locator('#invoices tr[data-number="2026-1044"][aria-current="true"]').waitFor();
    await reached("completed");
    await whole();
    await turn().locator('.call[data-name="open_invoice"][data-status="succeeded"]').waitFor();
    await send('[[sim tool=open_invoice args={"number":"1"} text="I cannot find it."]] Open invoice 1');
    await turn(1).locator('.call[data-name="open_invoice"][data-status="failed"]').waitFor();
    await reached("completed", 1);
    await invoice.getByRole("button", { name: "Close" }).click();
    await invoice.waitFor({ state: "hidden" });
  });

  story("a broken-off answer begins again", async () => {
    await begin();
    await send("[[sim tokens=40 pace_ms=10 cut_after=100 fail_times=1]] Try this");
    await turn().getByText("the answer was interrupted and begins again").waitFor();
    await reached("completed");
    await whole();
  });

  story("what a model says is never taken for HTML", async () => {
    await begin();
    const text =
      "<img src=x onerror=alert(1)> **bold** [link](javascript:alert(1)) https://help.acme.example/a https://evil.example/b";
    await send(`[[sim text=${JSON.stringify(text)}]] Say it`);
    await reached("completed");
    await answer().getByText("bold").waitFor();
    assert.ok((await answer().textContent()).startsWith("<img src=x onerror=alert(1)> bold"));
    assert.equal(await answer().locator("img").count(), 0);
    // Links lead to the tenant's own help pages only, as the page says to the widget.
    assert.deepEqual(await answer().locator("a").evaluateAll((links) => links.map((link) => link.href)), [
      "https://help.acme.example/a",
    ]);
  });

  story("a conversation is renamed and deleted, and is nobody else's", async () => {
    await begin();
    await send("[[sim tokens=3]] Hello");
    await reached("completed");
    await chat().getByRole("button", { name: "Conversations" }).click();
    await chat().getByRole("button", { name: /^Rename: / }).first().click();
    await chat().getByLabel("Rename", { exact: true }).fill("My own words");
    await page.keyboard.press("Enter");
    const entry = chat().getByRole("button", { name: /^My own words/ });
    await entry.waitFor();
    const listed = page.locator("#conversations li", { hasText: "My own words" });
    await listed.waitFor();
    await page.getByLabel("User").selectOption("bob");
    await listed.waitFor({ state: "detached" });
    await chat().getByRole("button", { name: "Conversations" }).click();
    assert.equal(await entry.count(), 0);
    await page.goBack();
    await listed.waitFor();
    await chat().getByRole("button", { name: "Conversations" }).click();
    await chat().getByRole("button", { name: "Delete: My own words" }).click();
    await chat().getByRole("button", { name: "Delete", exact: true }).click();
    await listed.waitFor({ state: "detached" });
  });

  story("the server is killed and started again: the page recovers and the answer completes", async () => {
    await begin();
    await send(SLOW);
    await written(60);
    await demo.kill();
    await connection("Reconnecting…");
    await page.getByRole("button", { name: "Ask the copilot about 2026-1044" }).click();
    await chat().getByText("Not sent yet. It will be sent when the connection is back.").waitFor();
    await demo.start();
    await connection("Live");
    await turn().getByText("the server was restarted in mid-answer; the answer begins again").waitFor();
    await reached("completed", 0);
    await reached("completed", 1);
    await whole();
    assert.equal((await turns()).length, 2, "what was sent again is one turn");
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
