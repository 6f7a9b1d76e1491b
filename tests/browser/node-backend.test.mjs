// The example of a Node backend, in a real browser: its page talks to the demo from another origin with the packed client.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { Backend } from "./backend.mjs";
import { Demo, launch } from "./world.mjs";

describe("the example of a Node backend", { timeout: 300_000 }, () => {
  const demo = new Demo();
  const backend = new Backend();
  let origin;
  let browser;

  before(async () => {
    backend.install();
    await demo.start();
    await backend.start(demo);
    ({ origin } = backend);
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    backend.stop();
    await demo.stop();
  });

  it("mints tokens for the user of the session only", async () => {
    assert.equal((await fetch(`${origin}/token`, { method: "POST" })).status, 401);
    const form = (user) => ({ method: "POST", body: new URLSearchParams({ user }), redirect: "manual" });
    assert.equal((await fetch(`${origin}/sign-in`, form("key:backend"))).status, 422);
    assert.equal((await fetch(`${origin}/sign-in`, form("a".repeat(5_000)))).status, 413);
    assert.equal((await fetch(`${origin}/client/..%2Fpackage.json`)).status, 404);
    const cookie = (await fetch(`${origin}/sign-in`, form("bob"))).headers.get("set-cookie").split(";")[0];
    const { token } = await (await fetch(`${origin}/token`, { method: "POST", headers: { cookie } })).json();
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const created = await fetch(`${demo.url}/v1/conversations`, { method: "POST", headers, body: "{}" });
    assert.equal((await created.json()).user, "bob");
  });

  it("a person signs in, asks, and approves", async () => {
    const page = await browser.newPage();
    page.setDefaultTimeout(60_000);
    const faults = [];
    page.on("pageerror", (error) => faults.push(error.message));
    await page.goto(origin);
    await page.fill("input[name=user]", "ada");
    await page.click("#sign-in button");
    await page.fill("input[name=question]", "[[sim text=\"<b>Hello</b> from copilotd\"]]");
    await page.click("#ask button");
    await page.waitForSelector(".end");
    assert.equal(await page.textContent(".answer"), "<b>Hello</b> from copilotd");
    await page.fill("input[name=question]", "Open a ticket: the printer is on fire");
    await page.click("#ask button");
    await page.click(".approval button >> text=Approve");
    await page.waitForFunction(() => document.querySelectorAll(".end").length === 2);
    assert.deepEqual(await page.locator(".error").allTextContents(), []);
    assert.deepEqual(faults, []);
    const { data } = await demo.get("/v1/conversations");
    assert.equal(data[0].title, "From the product");
  });
});
