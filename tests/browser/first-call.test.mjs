// docs/integrate/first-call.md, typed as it stands in an empty directory. Only the addresses differ: free ports, and a
// simulated provider.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, describe, it } from "node:test";

import { Demo, launch, modules, program } from "./world.mjs";

const guide = (name) => readFileSync(resolve(import.meta.dirname, "../../docs/integrate", name), "utf8");
const page = guide("first-call.md");
const streams = guide("events.md");

/** The shell lines of the page, and the files that it says to save, by name. */
const shell = [...page.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, code]) => code);
const files = Object.fromEntries(
  [...page.matchAll(/^Save this as `([^`]+)`[^`]*?\n\n```\w+\n(.*?)^```$/gms)].map(([, name, text]) => [name, text]),
);

async function freePort() {
  const probe = createServer();
  await new Promise((ready) => probe.listen(0, "127.0.0.1", ready));
  const { port } = probe.address();
  await new Promise((closed) => probe.close(closed));
  return port;
}

/** Starts a program, and resolves once it has printed what `ready` matches. */
function start(command, args, options, ready) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
  let said = "";
  const printed = new Promise((resolved, failed) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        said += text;
        if (ready.test(said)) resolved();
      });
    }
    child.once("exit", (code) => failed(new Error(`${command} ended with ${code}: ${said}`)));
  });
  return { child, printed };
}

describe("the first call", { timeout: 120_000 }, () => {
  const directory = mkdtempSync(join(tmpdir(), "copilotd-first-call-"));
  const children = [];
  let demo;
  let browser;
  let port;
  let ours;

  before(async () => {
    demo = new Demo();
    await demo.start();
    ours = await freePort();
    port = await freePort();
    const addressed = (text) =>
      text
        .replaceAll("127.0.0.1:8080", `127.0.0.1:${ours}`)
        .replaceAll(/(localhost:|listen\()3000/g, `$1${port}`)
        .replaceAll("https://api.openai.com/v1", `${demo.about.sim.openai}/v1`);
    assert.deepEqual(Object.keys(files), ["copilotd.toml", "backend.mjs", "index.html"]);
    for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), addressed(text));
    const [keys, serve, install, backend, ...more] = shell;
    assert.deepEqual(more, [], "a new step is tested here");

    const env = { ...process.env, OPENAI_API_KEY: "sim-key" };
    execFileSync("bash", ["-ec", keys], { cwd: directory, stdio: "pipe" });
    const [exported, ...commands] = serve.trim().split("\n");
    assert.match(exported, /^export OPENAI_API_KEY=/);
    for (const command of commands) {
      const [name, verb, ...rest] = command.split(" ");
      assert.equal(name, "copilotd");
      if (verb !== "serve") execFileSync(program(), [verb, ...rest], { cwd: directory, env, stdio: "pipe" });
      else children.push(start(program(), [verb, ...rest], { cwd: directory, env }, /copilotd is ready/));
    }
    // Installed already, outside the checkout.
    assert.equal(install, "npm install jose\n");
    symlinkSync(modules(), join(directory, "node_modules"));
    const [node, ...script] = backend.trim().split(" ");
    assert.equal(node, "node");
    children.push(start(process.execPath, script, { cwd: directory, env }, /open http/));
    await Promise.all(children.map(({ printed }) => printed));
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    for (const { child } of children) child.kill("SIGKILL");
    await demo?.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  it("ends in a streamed answer on the reader's own page", async () => {
    const tab = await browser.newPage();
    tab.setDefaultTimeout(30_000);
    await tab.goto(`http://localhost:${port}/`);
    await tab.click("button");
    await tab.waitForFunction(() => document.querySelector("#status").textContent !== "");
    assert.equal(await tab.textContent("#status"), "turn.completed");
    const first = await tab.textContent("#answer");
    assert.ok(first.length > 10, first);

    // The same conversation goes on, and an answer stands alone.
    await tab.fill("input", '[[sim text="That is all."]]');
    await tab.click("button");
    await tab.waitForFunction(() => document.querySelector("#status").textContent === "turn.completed");
    assert.equal(await tab.textContent("#answer"), "That is all.");
    await tab.close();
  });

  it("the EventSource of the page on streams opens with its ticket", async () => {
    const [example, ...more] = [...streams.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code);
    assert.deepEqual(more, []);
    const tab = await browser.newPage();
    tab.setDefaultTimeout(30_000);
    await tab.goto(`http://localhost:${port}/`);
    await tab.evaluate(async (base) => {
      const { token } = await (await fetch("/copilot-token")).json();
      const post = async (path, body) => {
        const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
        const answer = await fetch(base + path, { method: "POST", headers, body: JSON.stringify(body) });
        return answer.json();
      };
      const conversation = await post("/v1/conversations", {});
      await post(`/v1/conversations/${conversation.id}/turns`, { input: '[[sim text="By ticket."]]' });
      globalThis.read = "";
      const append = (text) => (globalThis.read += text);
      Object.assign(globalThis, { base, token, append, conversation_id: conversation.id, lastSeq: 0 });
    }, `http://127.0.0.1:${ours}`);
    await tab.addScriptTag({ type: "module", content: example });
    await tab.waitForFunction(() => globalThis.read === "By ticket.");
    await tab.close();
  });
});
