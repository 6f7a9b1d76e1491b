// A page of another origin calls the API, in a real browser: what CORS allows, and what it does not.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { createServer } from "node:http";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";

import { Demo, launch } from "./world.mjs";

const SECRET = "a secret of acme, at least 32 bytes long";

/** A page without content; each listener is an origin of its own. */
async function site() {
  const server = createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<!doctype html>"));
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  return { origin: `http://127.0.0.1:${server.address().port}`, stop: () => server.close() };
}

function token() {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: "https://acme.example", aud: "copilotd", sub: "ada", tenant: "acme", scope: "chat" };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ ...claims, iat: now, exp: now + 600 })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

/** The server with a configuration that allows one origin. Its provider is away: turns wait, and that is enough here. */
class Server extends Demo {
  constructor(origin) {
    super();
    this.origin = origin;
  }

  async start() {
    const file = join(this.directory, "copilotd.toml");
    writeFileSync(
      file,
      `[server]
listen = "127.0.0.1:${this.port}"
data_dir = ${JSON.stringify(join(this.directory, "data"))}
[[providers]]
name = "main"
base_url = "http://127.0.0.1:1/v1"
api_key = { value = "none" }
[[routes]]
name = "default"
targets = [{ provider = "main", model = "m", context_tokens = 8000 }]
[[tenants]]
id = "acme"
allowed_origins = [${JSON.stringify(this.origin)}]
[[tenants.issuers]]
iss = "https://acme.example"
alg = "HS256"
secret = { value = ${JSON.stringify(SECRET)} }
[[tenants.copilots]]
name = "support"
route = "default"
`,
    );
    const ready = /"message":"copilotd is ready".*"address":"([^"]+)"/;
    const [, address] = await this.run(["serve", "--config", file], ready);
    this.url = `http://${address}`;
    this.port = new URL(this.url).port;
  }
}

describe("pages of other origins", { timeout: 120_000 }, () => {
  let ours;
  let theirs;
  let server;
  let browser;

  before(async () => {
    [ours, theirs] = [await site(), await site()];
    server = new Server(ours.origin);
    await server.start();
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    ours.stop();
    theirs.stop();
  });

  const open = async (origin) => {
    const page = await browser.newPage();
    page.setDefaultTimeout(30_000);
    await page.goto(origin);
    return page;
  };

  it("an allowed page calls, reads headers and errors, and follows an EventSource over a restart", async () => {
    const page = await open(ours.origin);
    const made = await page.evaluate(
      async ([url, token]) => {
        const call = (path, options) =>
          fetch(url + path, {
            method: "POST",
            ...options,
            headers: { authorization: `Bearer ${token}`, "content-type": "application/json", ...options?.headers },
          });
        const created = await call("/v1/conversations", { body: "{}", headers: { "idempotency-key": "one" } });
        const { id } = await created.json();
        const again = await call("/v1/conversations", { body: "{}", headers: { "idempotency-key": "one" } });
        const turn = await call(`/v1/conversations/${id}/turns`, { body: '{"input":"hi"}' });
        const read = await fetch(`${url}/v1/conversations/${id}/events`, {
          headers: { authorization: `Bearer ${token}`, "last-event-id": "1" },
        });
        const first = await read.body.getReader().read();
        const refused = await fetch(`${url}/v1/conversations`);
        const ticket = await call("/v1/stream-tickets", { body: JSON.stringify({ conversation_id: id }) });
        const query = `ticket=${encodeURIComponent((await ticket.json()).ticket)}&after=0`;
        globalThis.ids = [];
        globalThis.opened = 0;
        globalThis.source = new EventSource(`${url}/v1/conversations/${id}/events?${query}`);
        globalThis.source.onopen = () => (globalThis.opened += 1);
        for (const name of ["turn.queued", "turn.started", "turn.cancelled"])
          globalThis.source.addEventListener(name, (event) => globalThis.ids.push(JSON.parse(event.data).seq));
        return {
          statuses: [created.status, turn.status, read.status, refused.status],
          same: (await again.json()).id === id,
          request: created.headers.get("x-request-id"),
          stream: first.value.length > 0,
          code: (await refused.json()).code,
          turn: (await turn.json()).id,
        };
      },
      [server.url, token()],
    );
    assert.deepEqual(made.statuses, [201, 202, 200, 401]);
    assert.ok(made.same && made.stream && made.request);
    assert.equal(made.code, "unauthenticated");
    await page.waitForFunction(() => globalThis.ids.length >= 2);

    await server.kill();
    await server.start();
    await page.waitForFunction(() => globalThis.opened >= 2);
    const cancelled = await page.evaluate(
      async ([url, token, turn]) => {
        const headers = { authorization: `Bearer ${token}` };
        return (await fetch(`${url}/v1/turns/${turn}/cancel`, { method: "POST", headers })).status;
      },
      [server.url, token(), made.turn],
    );
    assert.equal(cancelled, 202);
    // One queued, one cancelled, and no event twice.
    await page.waitForFunction(() => new Set(globalThis.ids).size >= 3);
    const ids = await page.evaluate(() => globalThis.ids);
    assert.deepEqual(ids, [...new Set(ids)].sort((a, b) => a - b));
    await page.close();
  });

  it("a page of another origin can read nothing", async () => {
    const page = await open(theirs.origin);
    const outcomes = await page.evaluate(
      async ([url, token]) => {
        const attempt = (path, options) =>
          fetch(url + path, options).then(
            (answer) => answer.status,
            () => "blocked",
          );
        const stream = new EventSource(`${url}/v1/conversations/conv_0/events?ticket=x`);
        const event = await new Promise((done) => (stream.onerror = () => done(stream.readyState)));
        return [
          await attempt("/v1/conversations", { headers: { authorization: `Bearer ${token}` } }),
          await attempt("/v1/conversations", { method: "POST", body: "{}" }),
          await attempt("/v1/conversations"),
          event === EventSource.CLOSED ? "blocked" : event,
        ];
      },
      [server.url, token()],
    );
    assert.deepEqual(outcomes, ["blocked", "blocked", "blocked", "blocked"]);
    await page.close();
  });
});
