// A backend without a framework. It signs users in, mints their tokens for copilotd, and serves a page that talks to
// copilotd directly, which runs on another origin.

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { userToken } from "./token.mjs";

const { COPILOTD_URL, COPILOTD_ISSUER, COPILOTD_TENANT, COPILOTD_SECRET_FILE, PORT = "3000" } = process.env;
/** Where `page.html` and `page.mjs` are. */
const page = resolve(process.env.PAGE_DIRECTORY ?? import.meta.dirname);
for (const name of ["COPILOTD_URL", "COPILOTD_ISSUER", "COPILOTD_TENANT", "COPILOTD_SECRET_FILE"]) {
  if (!process.env[name]) {
    console.error(`error: set ${name}; see README.md`);
    process.exit(2);
  }
}
const signer = {
  issuer: COPILOTD_ISSUER,
  tenant: COPILOTD_TENANT,
  secret: readFileSync(COPILOTD_SECRET_FILE, "utf8").trim(),
};
const client = dirname(fileURLToPath(import.meta.resolve("@copilotd/client")));

/** Who is signed in, by session id. Your product has something better already. */
const sessions = new Map();
const MAX_SESSIONS = 10_000;
const SESSION_MS = 12 * 3_600_000;

function signIn(user) {
  // A Map is in the order of insertion: the oldest session goes first.
  if (sessions.size >= MAX_SESSIONS) sessions.delete(sessions.keys().next().value);
  const id = randomBytes(32).toString("base64url");
  sessions.set(id, { user, until: Date.now() + SESSION_MS });
  return id;
}

function userOf(request) {
  const id = /(?:^|;\s*)session=([\w-]+)/.exec(request.headers.cookie ?? "")?.[1];
  const session = sessions.get(id);
  return session && session.until > Date.now() ? session.user : undefined;
}

/** Reads a small form. */
async function formOf(request) {
  let body = "";
  for await (const piece of request.setEncoding("utf8")) {
    body += piece;
    if (body.length > 1_000) throw new RangeError("the form is too large");
  }
  return new URLSearchParams(body);
}

const headers = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "content-security-policy":
    `default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ${new URL(COPILOTD_URL).origin}; ` +
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
};

const send = (response, status, type, body) => response.writeHead(status, { ...headers, "content-type": type }).end(body);

async function sendFile(response, path, type) {
  try {
    send(response, 200, type, await readFile(path));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    send(response, 404, "text/plain", "Not found\n");
  }
}

async function handle(request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  const route = `${request.method} ${pathname}`;
  if (route === "POST /sign-in") {
    const user = (await formOf(request)).get("user") ?? "";
    if (!/^[a-z]{1,32}$/.test(user)) return send(response, 422, "text/plain", "A name has 1 to 32 letters a to z\n");
    const cookie = `session=${signIn(user)}; HttpOnly; SameSite=Strict; Path=/; Max-Age=${SESSION_MS / 1000}`;
    return response.writeHead(303, { ...headers, location: "/", "set-cookie": cookie }).end();
  }
  if (route === "POST /token") {
    // For the user of the session, whatever the request says. The cookie is not sent from other sites' pages.
    const user = userOf(request);
    if (!user) return send(response, 401, "text/plain", "Sign in first\n");
    return send(response, 200, "application/json", JSON.stringify({ token: userToken(signer, user) }));
  }
  if (route === "GET /config.json") {
    return send(response, 200, "application/json", JSON.stringify({ baseUrl: COPILOTD_URL, user: userOf(request) ?? null }));
  }
  if (route === "GET /") return sendFile(response, join(page, "page.html"), "text/html; charset=utf-8");
  if (route === "GET /page.mjs") return sendFile(response, join(page, "page.mjs"), "text/javascript; charset=utf-8");
  if (request.method === "GET" && /^\/client\/[a-z]+\.js$/.test(pathname)) {
    return sendFile(response, join(client, basename(pathname)), "text/javascript; charset=utf-8");
  }
  return send(response, 404, "text/plain", "Not found\n");
}

const server = createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(`${request.method} ${request.url} failed: ${error.message}`);
    if (response.headersSent) response.destroy();
    else send(response, error instanceof RangeError ? 413 : 500, "text/plain", "The request failed\n");
  });
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`Open http://127.0.0.1:${server.address().port}/`));
