// The example of a Node backend, in a real browser: its page talks to the demo from another origin with the packed client.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, describe, it } from "node:test";

import { userToken } from "../../examples/node-backend/token.mjs";
import { Demo, launch } from "./world.mjs";

const root = resolve(import.meta.dirname, "../..");

/** The example with its dependency installed, as its README says, but without npm. */
function install() {
  const directory = mkdtempSync(join(tmpdir(), "copilotd-backend-"));
  cpSync(join(root, "examples/node-backend"), directory, { recursive: true });
  execFileSync(join(root, "scripts/pack-clients"), ["npm", join(directory, "packages")], { timeout: 240_000 });
  const archive = readdirSync(join(directory, "packages")).find((name) => name.startsWith("copilotd-client-"));
  const target = join(directory, "node_modules/@copilotd/client");
  mkdirSync(target, { recursive: true });
  execFileSync("tar", ["-xzf", join(directory, "packages", archive), "-C", target, "--strip-components=1"]);
  return directory;
}

describe("the example of a Node backend", { timeout: 300_000 }, () => {
  const demo = new Demo();
  let directory;
  let backend;
  let origin;
  let browser;

  before(async () => {
    directory = install();
    await demo.start();
    backend = spawn(process.execPath, ["server.mjs"], {
      cwd: directory,
      env: {
        ...process.env,
        PORT: "0",
        COPILOTD_URL: demo.url,
        COPILOTD_ISSUER: "https://acme.example",
        COPILOTD_TENANT: "acme",
        COPILOTD_SECRET_FILE: join(demo.directory, "acme.jwt.key"),
      },
      stdio: ["ignore", "pipe", "inherit"],
    });
    origin = await new Promise((ready, failed) => {
      backend.once("exit", (code) => failed(new Error(`server.mjs ended with ${code}`)));
      backend.stdout.setEncoding("utf8").on("data", (text) => {
        const address = /Open (http:\S+)\//.exec(text);
        if (address) ready(address[1]);
      });
    });
    const secret = readFileSync(join(demo.directory, "ops.jwt.key"), "utf8").trim();
    const operator = userToken({ issuer: "https://ops.example", tenant: "ops", secret, scope: "operator" }, "root");
    const allowed = await fetch(`${demo.url}/v1/operator/tenants/acme`, {
      method: "PATCH",
      headers: { authorization: `Bearer ${operator}`, "content-type": "application/json" },
      body: JSON.stringify({ settings: { allowed_origins: [origin] } }),
    });
    assert.equal(allowed.status, 200, await allowed.text());
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    backend?.removeAllListeners("exit").kill();
    await demo.stop();
    if (directory) rmSync(directory, { recursive: true, force: true });
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
