// Starts the demo and a browser for the tests.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "../..");

/** Returns the program to test. */
export function program() {
  const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
  const candidates = [process.env.COPILOTD_BIN, join(target, "debug/copilotd"), join(target, "release/copilotd")];
  const found = candidates.find((path) => path && existsSync(path));
  if (!found) throw new Error("build copilotd first, or set COPILOTD_BIN");
  return found;
}

/** `copilotd demo` on a directory of its own. */
export class Demo {
  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "copilotd-browser-"));
    this.port = 0;
  }

  /** Starts it; after the first time on the same port. Resolves when it says that it is ready. */
  async start() {
    const args = ["demo", "--port", String(this.port), "--data-dir", this.directory];
    await this.run(args, /continues where it stopped\./);
    this.about = JSON.parse(readFileSync(join(this.directory, "demo.json"), "utf8"));
    this.url = this.about.base_url;
    this.port = new URL(this.url).port;
  }

  /** Runs the program until it says something; resolves with the match. */
  async run(args, wanted) {
    const { OPENAI_API_KEY: _, ...env } = process.env;
    this.process = spawn(program(), args, { env, stdio: ["ignore", "pipe", "pipe"] });
    this.ended = new Promise((ended) => this.process.once("exit", ended));
    return new Promise((ready, failed) => {
      this.process.once("error", failed);
      this.ended.then((code) => failed(new Error(`copilotd ${args[0]} ended with ${code}`)));
      let said = "";
      const listen = (text) => {
        said += text;
        const match = wanted.exec(said);
        if (match) ready(match);
      };
      this.process.stdout.setEncoding("utf8").on("data", listen);
      this.process.stderr.setEncoding("utf8").on("data", listen).pipe(process.stderr, { end: false });
    });
  }

  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  async stop() {
    if (this.process?.exitCode === null && this.process.signalCode === null) await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Asks the server as acme's ada, past the page. */
  async get(path) {
    const headers = { authorization: `Bearer ${this.about.tenants.acme.users.ada}` };
    const answer = await fetch(this.url + path, { headers });
    const body = await answer.json();
    if (!answer.ok) throw new Error(`GET ${path} was answered ${answer.status}: ${JSON.stringify(body)}`);
    return body;
  }

  /** A simulator's state. */
  async outside(name) {
    return (await fetch(`${this.about.sim[name]}/_sim/state`)).json();
  }
}

/** Returns the directory of the npm packages. */
export function modules() {
  return process.env.COPILOTD_NODE_MODULES ?? join(here, "node_modules");
}

/** Launches Chromium, without anything that would call out. */
export function launch() {
  const { chromium } = createRequire(join(modules(), "any.js"))("playwright-core");
  return chromium.launch({
    executablePath: process.env.COPILOTD_CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-first-run",
    ],
  });
}

const TYPES = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml" };

/**
 * Serves a server's built pages from `COPILOTD_WEB_DIST` instead, so that a change of them needs no compiler. Of files
 * whose names have a hash, any one of the name does.
 */
export async function replace(context, url) {
  const directory = process.env.COPILOTD_WEB_DIST;
  if (!directory) return;
  // With the policy that the server sends.
  await context.route(`${url}/`, async (route) => {
    const response = await route.fetch().catch(() => undefined);
    const body = readFileSync(join(directory, "demo/index.html"));
    return response ? route.fulfill({ response, body }) : route.abort();
  });
  for (const part of ["widget", "demo"]) {
    const names = readdirSync(join(directory, part));
    await context.route(`${url}/${part}{.js,/*}`, (route) => {
      const wanted = new URL(route.request().url()).pathname.split("/").at(-1);
      const name = names.find((name) => name === wanted || name.replace(/-\w+(?=\.js$)/, "") === wanted);
      const headers = { "access-control-allow-origin": "*", "content-type": TYPES[extname(name ?? "")] ?? "text/plain" };
      return name ? route.fulfill({ headers, body: readFileSync(join(directory, part, name)) }) : route.abort();
    });
  }
}
