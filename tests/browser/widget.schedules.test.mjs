// Random misfortunes: a person chats while the page is reloaded, the network fails, a second tab is opened, answers are
// stopped, calls are approved and the server is killed. In the end every page shows what the log has, nothing twice.
//
//   COPILOTD_WIDGET_SCHEDULES=1000 node tests/browser/widget.schedules.test.mjs     more of them
//   COPILOTD_WIDGET_SEED=1234 node tests/browser/widget.schedules.test.mjs          from the seed that a failure names

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { World } from "./widget.world.mjs";

const COUNT = Number(process.env.COPILOTD_WIDGET_SCHEDULES ?? 20);
const SEED = Number(process.env.COPILOTD_WIDGET_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** Mulberry32: a small generator, the same on every machine. */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const STEPS = [
  "reload",
  "offline",
  "online",
  "tab",
  "leave",
  "stop",
  "approve",
  "reject",
  "restart",
  "wait",
  "send",
  "send",
  "send",
];

/** What happens, in order; the same for the same seed. */
export function scheduleOf(seed) {
  const next = random(seed);
  const pick = (list) => list[Math.floor(next() * list.length)];
  return Array.from({ length: 6 + Math.floor(next() * 7) }, () => ({
    step: pick(STEPS),
    page: next(),
    wait: Math.floor(next() * 400),
    says: pick([
      "[[sim tokens=8 pace_ms=10]] short",
      "[[sim tokens=40 pace_ms=25]] long",
      "Create a ticket about chance",
    ]),
  }));
}

/** Lets pages load only while the server is there: what a page without the widget's script does is not asked here. */
class Gate {
  #closed = Promise.resolve();
  #passing = new Set();

  async pass(load) {
    await this.#closed;
    const passing = load();
    this.#passing.add(passing);
    try {
      return await passing;
    } finally {
      this.#passing.delete(passing);
    }
  }

  /** Runs something while nobody passes; one after the other. */
  async close(work) {
    const before = this.#closed;
    let open;
    this.#closed = new Promise((done) => (open = done));
    try {
      await before;
      await Promise.allSettled(this.#passing);
      await work();
    } finally {
      open();
    }
  }
}

class Run {
  #sent = 0;

  constructor(world, gate, seed) {
    Object.assign(this, { world, gate, seed, user: `user-${seed}`, isOffline: false });
  }

  async start() {
    const query = { inline: true, height: 6000, user: this.user };
    this.query = query;
    this.pages = [await this.gate.pass(() => this.world.open(query, { viewport: { width: 700, height: 900 } }))];
    await this.pages[0].send("[[sim tokens=3 pace_ms=0]] begin");
    // Other schedules restart the server too, and after three times an answer has failed.
    await this.pages[0].page.locator("copilotd-chat .end").waitFor();
    this.conversation = await this.pages[0].conversation();
  }

  async apply({ step, page, wait, says }) {
    const chat = this.pages[Math.floor(page * this.pages.length)];
    const click = async (name) => {
      // A tab in the background draws nothing, and what is not drawn cannot be clicked.
      await chat.page.bringToFront();
      // It may be gone in the same moment: then there was nothing to do.
      await chat
        .button(name)
        .last()
        .click({ timeout: 300 })
        .catch(() => undefined);
    };
    switch (step) {
      case "reload":
        // A page that cannot be loaded is not the widget's.
        if (!this.isOffline) await this.gate.pass(() => chat.page.reload().then(() => chat.composer.waitFor()));
        break;
      case "offline":
      case "online":
        this.isOffline = step === "offline";
        await chat.context.setOffline(this.isOffline);
        break;
      case "tab":
        if (this.pages.length < 3 && !this.isOffline)
          this.pages.push(await this.gate.pass(() => this.world.open(this.query, { like: chat })));
        break;
      case "leave":
        if (this.pages.length > 1) {
          const [left] = this.pages.splice(this.pages.indexOf(chat), 1);
          left.clean();
          await left.page.close();
        }
        break;
      case "stop":
        await click("Stop the answer");
        break;
      case "approve":
        await click("Approve");
        break;
      case "reject":
        await click("Reject");
        break;
      case "restart":
        await this.gate.close(async () => {
          await this.world.server.kill();
          await sleep(wait);
          await this.world.server.start();
        });
        break;
      case "send":
        if (!(await chat.composer.evaluate((field) => field.readOnly))) {
          this.#sent += 1;
          await chat.send(`${says} ${this.#sent}`);
        }
        break;
    }
    await sleep(wait);
  }

  /** Lets everything come to its end: whatever waits for a person is approved. */
  async settle() {
    const [chat] = this.pages;
    await chat.page.bringToFront();
    await chat.context.setOffline(false);
    const deadline = Date.now() + 60_000;
    for (;;) {
      const open = await chat.page.evaluate(() => ({
        waiting: [...root().querySelectorAll(".status[data-turn], p.status")].length,
        approvals: root().querySelectorAll(".approval").length,
        lost: root().querySelector(".banner") !== null,
      }));
      if (open.waiting === 0 && open.approvals === 0 && !open.lost) break;
      if (Date.now() > deadline) assert.fail(`it does not come to an end: ${JSON.stringify(open)}`);
      if (open.approvals > 0)
        await chat
          .button("Approve")
          .last()
          .click({ timeout: 1000 })
          .catch(() => undefined);
      await sleep(200);
    }
    for (const page of this.pages) {
      const log = await page.agrees(this.conversation);
      // What the person has sent is there once: each text has a number.
      const asked = log.filter(({ role }) => role === "user").map(({ text }) => text);
      assert.equal(new Set(asked).size, asked.length, "nothing twice");
      page.clean();
    }
  }
}

// Several at a time on one server: what one does to it befalls all.
describe("the widget in random schedules", { timeout: 60_000 + COUNT * 60_000, concurrency: 4 }, () => {
  const world = new World();
  const gate = new Gate();
  before(() => world.start());
  after(() => world.stop());

  for (let number = 0; number < COUNT; number += 1) {
    const seed = SEED + number;
    it(`schedule ${seed}`, async () => {
      const steps = scheduleOf(seed);
      const run = new Run(world, gate, seed);
      try {
        await run.start();
        for (const step of steps) await run.apply(step);
        await run.settle();
      } catch (error) {
        console.error(
          `COPILOTD_WIDGET_SEED=${seed} COPILOTD_WIDGET_SCHEDULES=1\n${steps.map(({ step, wait }) => `${step} ${wait}`).join(", ")}`,
        );
        for (const page of run.pages ?? [])
          console.error(`---\n${await page.panel.innerText().catch(String)}\n${page.faults.join("\n")}`);
        throw error;
      } finally {
        await run.pages?.[0]?.close();
      }
    });
  }
});
