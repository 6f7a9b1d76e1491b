// The example in React, in a real browser: built with the packed client and hooks, served by the Node backend.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { after, before, describe, it } from "node:test";

import { Backend } from "./backend.mjs";
import { Demo, launch, modules } from "./world.mjs";

const root = resolve(import.meta.dirname, "../..");

/** Builds the example as its README says, but without npm. Returns the directory of its page. */
function build(packages) {
  const directory = join(packages, "../react");
  cpSync(join(root, "examples/react"), directory, { recursive: true });
  const target = join(directory, "node_modules/@copilotd");
  for (const name of ["client", "react"]) {
    mkdirSync(join(target, name), { recursive: true });
    const archive = readdirSync(packages).find((file) => file.startsWith(`copilotd-${name}-`));
    execFileSync("tar", ["-xzf", join(packages, archive), "-C", join(target, name), "--strip-components=1"]);
  }
  for (const name of ["react", "react-dom"]) symlinkSync(resolve(modules(), name), join(directory, "node_modules", name));
  const esbuild = createRequire(join(resolve(modules()), "any.js")).resolve("esbuild/bin/esbuild");
  mkdirSync(join(directory, "node_modules/.bin"));
  symlinkSync(esbuild, join(directory, "node_modules/.bin/esbuild"));
  execFileSync("npm", ["run", "--silent", "build"], { cwd: directory, stdio: "inherit", timeout: 60_000 });
  return join(directory, "dist");
}

describe("the example in React", { timeout: 300_000 }, () => {
  const demo = new Demo();
  const backend = new Backend();
  let browser;
  let page;
  const faults = [];

  before(async () => {
    const packages = backend.install();
    const dist = build(packages);
    await demo.start();
    await backend.start(demo, { PAGE_DIRECTORY: dist });
    browser = await launch();
    page = await browser.newPage();
    page.setDefaultTimeout(60_000);
    page.on("pageerror", (error) => faults.push(error.message));
    await page.goto(backend.origin);
    await page.fill("input[name=user]", "ada");
    await page.getByRole("button", { name: "Sign in" }).click();
  });

  after(async () => {
    await browser?.close();
    backend.stop();
    await demo.stop();
  });

  const ask = async (question) => {
    await page.fill("input[name=question]", question);
    await page.getByRole("button", { name: "Ask" }).click();
  };
  const turn = (status) => page.locator(`section[data-status="${status}"]`);

  it("an answer streams in, and a reload goes on with it", async () => {
    await ask("[[sim tokens=60 pace_ms=40]] Tell me something long");
    await page.waitForFunction(() => document.querySelector(".answer")?.textContent.length > 20);
    const some = await page.textContent(".answer");
    await page.reload();
    await page.waitForFunction((length) => document.querySelector(".answer")?.textContent.length > length, some.length);
    assert.ok((await page.textContent(".answer")).startsWith(some));
    await turn("completed").waitFor();
    const { data } = await demo.get("/v1/conversations");
    assert.equal(data[0].title, "From React");
    const { data: messages } = await demo.get(`/v1/conversations/${data[0].id}/messages`);
    assert.equal(await page.textContent(".answer"), messages.at(-1).content[0].text);
  });

  it("a call is approved, an answer is stopped, and text is text", async () => {
    await ask("Open a ticket: the printer is on fire");
    await page.getByRole("button", { name: "Approve" }).click();
    await turn("completed").nth(1).waitFor();
    await page.getByText("zendesk_create_ticket: succeeded").waitFor();
    await ask("[[sim tokens=400 pace_ms=50]] Tell me something long");
    await page.waitForFunction(() => [...document.querySelectorAll(".answer")].at(-1).textContent.length > 20);
    await page.getByRole("button", { name: "Stop" }).click();
    await turn("cancelled").waitFor();
    await ask('[[sim text="<b>Hello</b> from copilotd"]]');
    await page.getByText("<b>Hello</b> from copilotd", { exact: true }).waitFor();
    assert.deepEqual(await page.locator(".error").allTextContents(), []);
    assert.deepEqual(faults, []);
  });
});
