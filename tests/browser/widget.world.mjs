// What the tests of the widget share: the server with the simulators behind it, a page of another origin with a strict
// policy that loads the widget, and what a person sees and does there.

import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { Demo, launch, replace } from "./world.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const modules = process.env.COPILOTD_NODE_MODULES ?? join(here, "node_modules");
const axe = () => readFileSync(createRequire(join(modules, "any.js")).resolve("axe-core/axe.min.js"), "utf8");

/** Slow enough that a reload, a stop or a kill falls into the middle of it. */
export const SLOW = "[[sim tokens=120 pace_ms=40]] Tell me something long";

function jwt(secret, { user, scope, life }) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: "https://acme.example", aud: "copilotd", sub: user, tenant: "acme", scope };
  // Tokens differ, so that a test can tell a new one.
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ ...claims, iat: now, exp: now + life, jti: randomBytes(8).toString("hex") })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** `copilotd serve`, with the systems that a demo simulates; these go on when it is killed. */
export class Server extends Demo {
  constructor(simulators, origin) {
    super();
    Object.assign(this, { simulators, origin, secret: randomBytes(24).toString("hex") });
  }

  async start() {
    const { openai, zendesk, slack } = this.simulators;
    const file = join(this.directory, "copilotd.toml");
    writeFileSync(
      file,
      `[server]
listen = "127.0.0.1:${this.port}"
data_dir = ${JSON.stringify(join(this.directory, "data"))}
[[providers]]
name = "main"
base_url = "${openai}/v1"
api_key = { value = "simulated" }
[[routes]]
name = "default"
targets = [{ provider = "main", model = "sim-large", context_tokens = 128000 }]
[[tenants]]
id = "acme"
allowed_origins = [${JSON.stringify(this.origin)}]
[[tenants.issuers]]
iss = "https://acme.example"
alg = "HS256"
secret = { value = "${this.secret}" }
[[tenants.copilots]]
name = "support"
route = "default"
tools = ["zendesk_search_tickets", "zendesk_get_ticket", "zendesk_create_ticket", "slack_post_message"]
approval = ["zendesk_create_ticket"]
knowledge = ["handbook"]
[tenants.limits]
per_user = { writes_per_minute = 0, searches_per_minute = 0 }
[tenants.zendesk]
base_url = "${zendesk}"
email = "bot@acme.example"
token = { value = "acme-zendesk-token" }
[tenants.slack]
base_url = "${slack}/api/"
bot_token = { value = "xoxb-acme" }
`,
    );
    const [, address] = await this.run(
      ["serve", "--config", file],
      /"message":"copilotd is ready".*"address":"([^"]+)"/,
    );
    this.url = `http://${address}`;
    this.port = new URL(this.url).port;
  }

  token(user = "ada", scope = "chat", life = 600) {
    return jwt(this.secret, { user, scope, life });
  }

  /** Calls the API past the page; throws unless it is accepted. */
  async call(method, path, body, { user = "ada", scope = "chat", headers } = {}) {
    const answer = await fetch(this.url + path, {
      method,
      headers: { authorization: `Bearer ${this.token(user, scope)}`, "content-type": "application/json", ...headers },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text ? JSON.parse(text) : undefined;
  }

  /** The conversation's log as people see it: who said what, turn by turn. A message that waited in line is of its turn. */
  async log(conversation, user = "ada") {
    const messages = [];
    const replaced = new Set();
    for (let cursor = ""; cursor !== null;) {
      const page = await this.call("GET", `/v1/conversations/${conversation}/messages?limit=100${cursor}`, undefined, {
        user,
      });
      messages.push(...page.data);
      for (const { id, replaced_by } of page.turns) if (replaced_by) replaced.add(id);
      cursor = page.next_cursor === null ? null : `&cursor=${encodeURIComponent(page.next_cursor)}`;
    }
    const turns = [...new Set(messages.map(({ turn_id }) => turn_id))].filter((turn) => !replaced.has(turn));
    return turns
      .flatMap((turn) => messages.filter(({ turn_id }) => turn_id === turn))
      .filter(({ role }) => role !== "tool")
      .map(({ role, content }) => ({ role, text: plain(unlisted(content.map(({ text }) => text).join(""))) }))
      .filter(({ text }) => text !== "");
  }

  /** Says things in a conversation past the page, each in a turn of its own. A few are on their way at a time. */
  async say(conversation, inputs, user) {
    const pending = [];
    const end = async (turn) => {
      const headers = { authorization: `Bearer ${this.token(user)}` };
      // The stream ends with the turn.
      await (await fetch(`${this.url}/v1/turns/${turn}/events`, { headers })).text();
    };
    for (const input of inputs) {
      const { id } = await this.call("POST", `/v1/conversations/${conversation}/turns`, { input }, { user });
      pending.push(id);
      if (pending.length > 4) await end(pending.shift());
    }
    for (const turn of pending) await end(turn);
  }

  /** Makes a conversation with so many messages, and returns its id and what was said. */
  async past(user, count) {
    const said = Array.from({ length: count }, (_, index) => `Message ${index} of the past`);
    const { id } = await this.call("POST", "/v1/conversations", {}, { user });
    const inputs = Array.from(
      { length: count / 2 },
      (_, index) => `[[sim first_ms=0 pace_ms=0 text="${said[2 * index + 1]}"]] ${said[2 * index]}`,
    );
    await this.say(id, inputs, user);
    return { id, said: said.map((text, index) => (index % 2 ? text : inputs[index / 2])) };
  }

  /** Puts a document where the copilot finds it. */
  async document(name, document) {
    await this.call("PUT", `/v1/knowledge/handbook/documents/${name}`, document, { scope: "knowledge" });
    for (let attempt = 0; attempt < 200; attempt += 1) {
      const { data } = await this.call(
        "POST",
        "/v1/knowledge/handbook/search",
        { query: document.text },
        { scope: "knowledge" },
      );
      if (data.some(({ external_id }) => external_id === name)) return;
      await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error(`the document ${name} cannot be found`);
  }
}

/** A text without the marks of its lists, which the page draws. */
const unlisted = (text) => text.replaceAll(/^[ \t]*[-*+] +/gm, "");

/** What texts have in common whatever becomes of the white space between blocks. */
const solid = (messages) => JSON.stringify(messages).replaceAll(" ", "");

/** White space as a page shows it. */
export const plain = (text) => text.replaceAll(/\s+/g, " ").trim();

/** The customer's site: pages of its own origin, with a policy that allows nothing but the widget. */
export class Site {
  /** What the page gives the widget as a token; null if the user is not signed in. */
  token = () => null;
  tokens = 0;

  async start() {
    this.http = createServer((request, answer) => this.#answer(request, answer));
    await new Promise((ready) => this.http.listen(0, "127.0.0.1", ready));
    this.origin = `http://127.0.0.1:${this.http.address().port}`;
  }

  stop() {
    this.http?.closeAllConnections();
    this.http?.close();
  }

  #answer(request, answer) {
    const url = new URL(request.url, this.origin);
    if (url.pathname === "/token") {
      this.tokens += 1;
      const token = this.token(url.searchParams.get("user") ?? "ada");
      return token === null ? answer.writeHead(401).end() : answer.end(token);
    }
    if (url.pathname !== "/") return answer.writeHead(204).end();
    const nonce = randomBytes(16).toString("base64");
    answer.setHeader("content-type", "text/html; charset=utf-8");
    answer.setHeader(
      "content-security-policy",
      [
        "default-src 'none'",
        `script-src 'nonce-${nonce}'`,
        `style-src 'nonce-${nonce}'`,
        `connect-src 'self' ${this.server}`,
        `img-src 'self' ${this.server}`,
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "base-uri 'none'",
        "form-action 'none'",
      ].join("; "),
    );
    answer.end(page(nonce, this.server, url.searchParams));
  }
}

const quoted = (value) => JSON.stringify(value).replaceAll("<", "\\u003c");
const attribute = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;");

/** A function of the host's page. All tabs count its runs together. */
const TOOLS = `chat.tools = [{
        name: "open_page",
        description: "Opens a page of the shop.",
        parameters: { type: "object", properties: { path: { type: "string" } }, required: ["path"] },
        run: async ({ path }) => {
          localStorage.setItem("runs", Number(localStorage.getItem("runs")) + 1);
          if (path === "/nowhere") throw new Error("there is no such page");
          return { title: "The page " + path };
        },
      }];`;

/** The host's page. Its query says how it uses the widget. */
function page(nonce, server, query) {
  const given = ["lang", "dir", "theme"].filter((name) => query.has(name));
  const attributes = given.map((name) => ` ${name}="${attribute(query.get(name))}"`).join("");
  const data = given.map((name) => ` data-${name}="${attribute(query.get(name))}"`).join("");
  const isInline = query.has("inline");
  const script = `<script nonce="${nonce}" src="${server}/widget.js" async`;
  return `<!doctype html>
<html lang="${attribute(query.get("lang") ?? "en")}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A page of Acme</title>
<style nonce="${nonce}">
  body { margin: 0; font: 16px sans-serif }
  main { padding: 1rem }
  copilotd-chat[inline] { display: block; height: ${Number(query.get("height") ?? 700)}px }
</style>
<script nonce="${nonce}">
  globalThis.heard = [];
  globalThis.executed = [];
  globalThis.trap = (what) => executed.push(String(what));
  globalThis.refusals = ${Number(query.get("refusals") ?? 0)};
  globalThis.getToken = async () => {
    if (refusals-- > 0) throw new Error("not now");
    const answer = await fetch("/token" + location.search);
    if (!answer.ok) throw new Error("not signed in");
    return answer.text();
  };
  for (const type of ["copilotd-open", "copilotd-message", "copilotd-approval"])
    addEventListener(type, ({ detail }) => heard.push({ type, detail }));
  customElements.whenDefined("copilotd-chat").then(() => {
    const set = () => {
      const chat = document.querySelector("copilotd-chat");
      if (!chat) return requestAnimationFrame(set);
      chat.greeting = ${quoted(query.get("greeting") ?? "Hello from Acme")};
      chat.starters = ${quoted(query.getAll("starter"))};
      chat.metadata = { page: "orders" };
      ${query.has("attachments") ? `chat.setAttribute("attachments", ${quoted(query.get("attachments"))});` : ""}
      ${query.has("tools") ? TOOLS : ""}
      ${isInline ? "chat.token = getToken;" : ""}
    };
    set();
  });
</script>
<main><h1>Orders</h1><p>Nothing to see here. <a href="#orders">All orders</a></p></main>
${
  isInline
    ? `<copilotd-chat inline copilot="support"${attributes}></copilotd-chat>${script}></script>`
    : `${script} data-token="getToken" data-copilot="support"${data}></script>`
}
</html>`;
}

/** Everything that runs, and one browser. */
export class World {
  async start() {
    this.site = new Site();
    await this.site.start();
    this.demo = new Demo();
    await this.demo.start();
    this.server = new Server(this.demo.about.sim, this.site.origin);
    await this.server.start();
    this.site.server = this.server.url;
    this.site.token = (user) => this.server.token(user);
    this.browser = await launch();
  }

  async stop() {
    await this.browser?.close();
    await this.server?.stop();
    await this.demo?.stop();
    this.site?.stop();
  }

  /** Opens the page in a browser profile of its own, or of another chat. */
  async open(query = {}, { like, ...options } = {}) {
    const context =
      like?.context ?? (await this.browser.newContext({ viewport: { width: 1100, height: 800 }, ...options }));
    if (!like) await replace(context, this.server.url);
    const chat = new Chat(this, context, await context.newPage());
    await chat.watch();
    await chat.go(query);
    return chat;
  }
}

/** The widget on one page, as a person sees it. */
export class Chat {
  faults = [];
  requests = new Set();

  constructor(world, context, page) {
    Object.assign(this, { world, context, page });
    page.setDefaultTimeout(30_000);
  }

  /** Notes what must not happen: violations of the policy, errors, dialogs; and where requests go. */
  async watch() {
    const { page } = this;
    page.on("pageerror", (error) => this.faults.push(`page error: ${error}`));
    page.on("console", (message) => {
      const said = message.text();
      // A server that is away, and refusals, are what some of the stories are about.
      if (message.type() === "error" && !/^Failed to load resource|net::ERR_|the page gave no user token/.test(said))
        this.faults.push(`console: ${said}`);
    });
    page.on("dialog", (dialog) => {
      this.faults.push(`dialog: ${dialog.message()}`);
      return dialog.dismiss();
    });
    page.on("request", (request) => this.requests.add(new URL(request.url()).origin));
    await page.exposeFunction("reportViolation", (text) => this.faults.push(`policy: ${text}`));
    await page.addInitScript(() => {
      addEventListener("securitypolicyviolation", (event) =>
        globalThis.reportViolation(
          `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`,
        ),
      );
      globalThis.shifts = [];
      new PerformanceObserver((list) => globalThis.shifts.push(...list.getEntries().map(({ value }) => value))).observe(
        {
          type: "layout-shift",
          buffered: true,
        },
      );
      globalThis.root = () => document.querySelector("copilotd-chat")?.shadowRoot;
      // Everything that a screen reader would be told: changes of live regions, wherever they are.
      globalThis.announced = [];
      const follow = (region) => {
        if (region.followed) return;
        region.followed = true;
        const tell = () => region.textContent.trim() && globalThis.announced.push(region.textContent.trim());
        tell();
        new MutationObserver(tell).observe(region, { childList: true, characterData: true, subtree: true });
      };
      const LIVE =
        '[role="status"], [role="alert"], [role="log"]:not([aria-live="off"]), [aria-live="polite"], [aria-live="assertive"]';
      const look = () => {
        const root = globalThis.root();
        if (!root) return requestAnimationFrame(look);
        const all = () => root.querySelectorAll(LIVE).forEach(follow);
        all();
        new MutationObserver(all).observe(root, {
          childList: true,
          subtree: true,
          attributes: true,
          attributeFilter: ["role", "aria-live"],
        });
        return undefined;
      };
      document.addEventListener("DOMContentLoaded", look);
    });
  }

  async go(query = {}) {
    const { site } = this.world;
    const params = new URLSearchParams();
    for (const [name, value] of Object.entries(query))
      for (const one of [value].flat()) params.append(name, one === true ? "" : one);
    this.user = query.user ?? "ada";
    await this.page.goto(`${site.origin}/?${params}`);
    if (query.inline) await this.composer.waitFor();
  }

  get launcher() {
    return this.page.getByRole("button", { name: /^(Open the chat|Chat öffnen|فتح المحادثة|チャットを開く)$/ });
  }
  get composer() {
    return this.page.locator("copilotd-chat .composer textarea");
  }
  get panel() {
    return this.page.locator("copilotd-chat .panel");
  }
  button(name) {
    return this.panel.getByRole("button", { name, exact: true });
  }

  /** Opens the chat and begins a conversation. */
  async begin() {
    if (await this.launcher.isVisible()) await this.launcher.click();
    await this.button("New conversation").click();
    await this.page.locator("copilotd-chat .welcome").waitFor();
  }

  async send(text) {
    await this.composer.fill(text);
    await this.composer.press("Enter");
  }

  /** Waits until the turn of this number, from 0, stands as said. */
  reached(status, number = 0) {
    return this.page.locator(`copilotd-chat [data-turn][data-status="${status}"]`).nth(number).waitFor();
  }

  /** Waits until the last answer has so many characters, and returns them. */
  async written(length) {
    const found = await this.page.waitForFunction((length) => {
      const text = [...root().querySelectorAll(".message.assistant .markdown")].at(-1)?.textContent ?? "";
      return text.length >= length && text;
    }, length);
    return found.jsonValue();
  }

  /** Who said what, in the order of the page. */
  async shown() {
    const rows = await this.page.evaluate(() =>
      [...root().querySelectorAll(".list .message")].map((message) => ({
        role: message.classList.contains("user") ? "user" : "assistant",
        text: (message.querySelector(".plain, .markdown") ?? message).textContent,
      })),
    );
    return rows.map(({ role, text }) => ({ role, text: plain(text) }));
  }

  /** The conversation that is open. */
  async conversation() {
    const found = await this.page.waitForFunction(() => {
      for (const [key, value] of Object.entries(localStorage))
        if (/^copilotd\.widget\/.*\/current$/.test(key)) return JSON.parse(value).id;
      return undefined;
    });
    return found.jsonValue();
  }

  /** Waits until the page shows exactly what the log has. */
  async agrees(id) {
    const conversation = id ?? (await this.conversation());
    let shown;
    let log;
    for (let attempt = 0; attempt < 100; attempt += 1) {
      // The server may be away just now.
      log = await this.world.server.log(conversation, this.user).catch(String);
      shown = await this.shown();
      if (solid(shown) === solid(log)) return log;
      await this.page.waitForTimeout(100);
    }
    assert.deepEqual(shown, log, "the page and the log");
    return log;
  }

  /** Runs axe in a world of its own, which the page's policy does not see. */
  async accessible(state) {
    const session = await this.context.newCDPSession(this.page);
    const { frameTree } = await session.send("Page.getFrameTree");
    const { executionContextId: contextId } = await session.send("Page.createIsolatedWorld", {
      frameId: frameTree.frame.id,
    });
    const evaluate = async (expression) => {
      const { result, exceptionDetails } = await session.send("Runtime.evaluate", {
        expression,
        contextId,
        awaitPromise: true,
        returnByValue: true,
      });
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    };
    // What fades in has another contrast on its way.
    await this.page.evaluate(() =>
      Promise.allSettled(
        document
          .getAnimations()
          .concat(root().getAnimations?.() ?? [])
          .filter(({ effect }) => effect?.getTiming().iterations !== Infinity)
          .map(({ finished }) => finished),
      ),
    );
    await evaluate(`${axe()}; undefined`);
    const found = await evaluate(`axe.run("copilotd-chat", { resultTypes: ["violations"] }).then(({ violations }) =>
      violations.map(({ id, help, nodes }) => id + ": " + help + "\\n" + nodes.map(({ target, html, failureSummary }) => "  " + JSON.stringify(target) + " " + html.slice(0, 200) + "\\n  " + failureSummary).join("\\n")))`);
    await session.detach();
    assert.deepEqual(found, [], `axe, ${state}`);
  }

  /** Asserts that nothing happened which must not. */
  clean() {
    assert.deepEqual(this.faults, []);
    const { site, server } = this.world;
    for (const origin of this.requests) assert.ok([site.origin, server.url].includes(origin), `a request to ${origin}`);
  }

  close() {
    return this.context.close();
  }
}
