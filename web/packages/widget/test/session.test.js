// One user's chat against a small server in memory: what is shown at every moment, what is announced and told.

import assert from "node:assert/strict";
import test, { afterEach } from "node:test";

import { Keep, memory } from "../dist/keep.js";
import { Session } from "../dist/session.js";

const usage = { prompt_tokens: 1, completion_tokens: 1, cached_tokens: 0, cost_usd: 0, models: [] };
const at = "2026-11-30T12:00:00Z";

/** Keeps the promises of the API that the session needs. Answers come when a test says so. */
class Server {
  conversations = new Map();
  keys = new Map();
  cancelled = [];
  /** The conversations to which files were uploaded. */
  files = [];
  /** Holds back the answers to submitted turns, as a slow network does; the stream is not concerned. */
  gate = Promise.resolve();

  fetch = async (url, { method, headers, body }) => {
    const { pathname } = new URL(url);
    const [, , , id, part] = pathname.split("/");
    const key = headers["idempotency-key"];
    const once = (make) => {
      if (!this.keys.has(key)) this.keys.set(key, make());
      return this.keys.get(key);
    };
    if (this.refuses) return Response.json({ code: "forbidden", title: "No", retry: "never" }, { status: 403 });
    if (pathname === "/v1/conversations") return Response.json({ id: once(() => this.create()) }, { status: 201 });
    if (pathname.startsWith("/v1/turns/")) {
      this.cancelled.push(id);
      return Response.json({ id }, { status: 202 });
    }
    if (pathname === "/v1/files") {
      const file = body.get("file");
      this.files.push(body.get("conversation_id"));
      if (file.size > 9) return Response.json({ code: "too_large", title: "Too large", retry: "never" }, { status: 413 });
      return Response.json({ id: `file_${this.files.length}`, name: file.name, bytes: file.size }, { status: 201 });
    }
    const conversation = this.conversations.get(id);
    if (!conversation) return Response.json({ code: "not_found", title: "Not found", retry: "never" }, { status: 404 });
    if (part === "turns" && method === "POST") {
      const turn = once(() => this.submit(conversation, JSON.parse(body)));
      await this.gate;
      return Response.json({ id: turn }, { status: 202 });
    }
    if (part === "messages") return Response.json({ data: [], turns: [], next_cursor: null, last_seq: 0 });
    return new Response(this.stream(conversation), { headers: { "content-type": "text/event-stream" } });
  };

  create() {
    const id = `conv_${this.conversations.size + 1}`;
    this.conversations.set(id, { id, events: [], readers: new Set() });
    return id;
  }

  submit(conversation, { input, metadata }) {
    const id = `turn_${this.keys.size}`;
    this.emit(conversation, "turn.queued", { turn_id: id, input, metadata: metadata ?? {} });
    return id;
  }

  emit(conversation, type, data) {
    const seq = conversation.events.length + 1;
    const text = `event: ${type}\nid: ${seq}\ndata: ${JSON.stringify({ seq, at, ...data })}\n\n`;
    conversation.events.push(text);
    for (const reader of conversation.readers) reader.enqueue(new TextEncoder().encode(text));
  }

  answer(conversation, turn_id, text) {
    this.emit(conversation, "turn.started", { turn_id, attempt: 1, model: "m" });
    const message = { turn_id, message_id: `msg_${turn_id}`, text, citations: [], tool_calls: [], finish: "stop" };
    this.emit(conversation, "message.completed", message);
    this.emit(conversation, "turn.completed", { turn_id, usage, first_token_ms: 1 });
  }

  stream(conversation) {
    let reader;
    return new ReadableStream({
      start: (controller) => {
        reader = controller;
        conversation.readers.add(reader);
        for (const text of conversation.events) reader.enqueue(new TextEncoder().encode(text));
      },
      cancel: () => void conversation.readers.delete(reader),
    });
  }
}

const sessions = [];
afterEach(() => {
  for (const session of sessions.splice(0)) session.end();
});

function open(server, storage = memory()) {
  const log = { announced: [], messages: [], most: 0 };
  const session = new Session({
    baseUrl: "http://fake",
    token: () => "token",
    fetch: server.fetch,
    copilot: "support",
    metadata: () => ({ page: "/orders" }),
    tools: () => ({}),
    keep: new Keep(storage, "ada"),
    user: null,
    onAnnounce: (announcement) => log.announced.push(announcement),
    onMessage: ({ role, text }) => log.messages.push(`${role}: ${text}`),
    onApproval: () => {},
  });
  sessions.push(session);
  const users = () => session.getShown().rows.filter(({ kind }) => kind === "user" || kind === "outgoing");
  session.subscribe(() => (log.most = Math.max(log.most, users().length)));
  return { session, log, users };
}

async function until(isTrue, what) {
  for (let left = 500; !isTrue(); left--) {
    assert.ok(left, `waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
const only = (server) => [...server.conversations.values()][0];

test("a first message creates a conversation, is shown once at every moment, and its answer is announced twice", async () => {
  const server = new Server();
  const { session, log, users } = open(server);
  let release;
  server.gate = new Promise((resolve) => (release = resolve));
  await session.send("hello");
  assert.equal(users().length, 1, "at once");
  assert.ok(session.getShown().isBusy);
  // The stream tells of the turn before the request is answered.
  await until(() => session.getShown().snapshot?.turns.length, "the turn");
  assert.equal(users().length, 1);
  release();
  const [turn] = session.getShown().snapshot.turns;
  assert.equal(turn.metadata.page, "/orders");
  server.answer(only(server), turn.id, "Good day");
  await until(() => !session.getShown().isBusy, "the answer");
  assert.equal(log.most, 1);
  assert.deepEqual(log.announced, ["answering", "complete"]);
  assert.deepEqual(log.messages, ["user: hello", "assistant: Good day"]);
  assert.equal(server.conversations.size, 1);
});

test("a page that was closed before it knew the conversation finds it again, and tells nothing twice", async () => {
  const server = new Server();
  const storage = memory();
  const first = open(server, storage);
  await first.session.send("hello");
  const draft = new Keep(storage, "ada").current;
  assert.ok("draft" in draft);
  await until(() => first.session.getShown().snapshot?.turns.length, "the turn");
  first.session.end();
  new Keep(storage, "ada").current = draft;
  const again = open(server, storage);
  await until(() => again.session.getShown().snapshot?.turns.length, "the conversation");
  assert.equal(server.conversations.size, 1);
  assert.deepEqual(new Keep(storage, "ada").current, { id: "conv_1" });
  assert.equal(again.users().length, 1);
});

test("what is stopped before it is a turn is cancelled as soon as it is one", async () => {
  const server = new Server();
  const { session } = open(server);
  await session.send("hello");
  const stopped = session.stop();
  await until(() => server.cancelled.length, "the cancel");
  await stopped;
  assert.deepEqual([...new Set(server.cancelled)], [session.getShown().snapshot.turns[0].id]);
});

test("a conversation that is gone makes room for a new one", async () => {
  const server = new Server();
  const storage = memory();
  new Keep(storage, "ada").current = { id: "conv_9" };
  const { session } = open(server, storage);
  await until(() => session.getShown().name === "new", "a new conversation");
  assert.equal(new Keep(storage, "ada").current, null);
});

test("files create the conversation once, and go with the next message", async () => {
  const server = new Server();
  const { session } = open(server);
  session.attachments.add([new File(["one"], "one.txt"), new File(["two"], "two.txt"), new File(["far too long"], "3.txt")]);
  assert.ok(session.attachments.isUploading);
  await until(() => !session.attachments.isUploading, "the uploads");
  assert.deepEqual(server.files, ["conv_1", "conv_1", "conv_1"]);
  assert.equal(server.conversations.size, 1);
  const problems = session.getShown().attached.map(({ problem }) => problem?.name);
  assert.deepEqual(problems, [undefined, undefined, "error_file_too_large"]);
  const files = session.attachments.ids;
  await session.send("Read", { files });
  await until(() => session.getShown().snapshot?.turns.length, "the turn");
  const [{ input }] = session.getShown().snapshot.turns;
  assert.deepEqual(input, [{ type: "text", text: "Read" }, ...files.map((file_id) => ({ type: "file", file_id }))]);
  assert.equal(server.conversations.size, 1);
});

test("a message takes at most eight files, and none of another conversation", () => {
  const { session } = open(new Server());
  const file = () => new File(["x"], "x.txt");
  session.attachments.add(Array.from({ length: 9 }, file));
  const problems = session.attachments.list.flatMap(({ problem }) => problem?.name ?? []);
  assert.deepEqual(problems, ["error_too_many_files"]);
  session.show(null);
  assert.deepEqual(session.getShown().attached, []);
});

test("a conversation that cannot be created leaves the file with the reason", async () => {
  const server = new Server();
  server.refuses = true;
  const { session } = open(server);
  session.attachments.add([new File(["x"], "x.txt")]);
  await until(() => !session.attachments.isUploading, "the upload");
  assert.deepEqual(session.getShown().attached.map(({ problem }) => problem.name), ["error_forbidden"]);
  assert.equal(session.getShown().name, "new");
  server.refuses = false;
  await session.send("hello");
  await until(() => session.getShown().snapshot?.turns.length, "the turn");
});
