// A server in memory that keeps API.md's promises about streams, idempotency keys and messages, and breaks everything
// that it does not promise: connections, answers, tokens.

import { setImmediate } from "node:timers/promises";

const encoder = new TextEncoder();
export const bytesOf = (text) => encoder.encode(text).length;
const OPENS_SEGMENT = new Set(["turn.started", "message.reset", "message.completed"]);
const usage = { prompt_tokens: 1, completion_tokens: 1, cached_tokens: 0, cost_usd: 0, models: [] };

/**
 * A conversation's whole course: durable records with a `seq`, and between them the pieces of text that are released.
 * `turns` is a list of `{ steps: [{ pieces, end, call? }], end }`.
 */
export function timelineOf(turns) {
  const timeline = [];
  let seq = 0;
  const at = "2026-11-30T12:00:00Z";
  const record = (type, turn_id, more = {}) => {
    // Numbers may skip.
    seq += 1 + (seq % 3 === 2 ? 1 : 0);
    timeline.push({ type, seq, data: { seq, turn_id, at, ...more } });
  };
  turns.forEach(({ steps, end = "completed" }, n) => {
    const turn = `turn_${n}`;
    record("turn.queued", turn, { input: `question ${n}`, metadata: {} });
    record("turn.started", turn, { attempt: 1, model: "main" });
    steps.forEach(({ pieces, end = "completed", notice, call }, step) => {
      const message_id = `msg_${n}_${step}`;
      pieces.forEach((text, index) => {
        if (text) timeline.push({ type: "message.delta", data: { turn_id: turn, at, message_id, text } });
        // A durable event in the middle of a message.
        if (notice && index === 0) record("model.fallback", turn, { from: "a", to: "b", reason: "timeout" });
      });
      const text = pieces.join("");
      if (end === "reset") return record("message.reset", turn, { message_id, reason: "restart" });
      const calls = call ? [{ id: `call_${n}_${step}`, name: "look", arguments: { n } }] : [];
      const finish = call ? "tool_calls" : "stop";
      record("message.completed", turn, { message_id, text, citations: [], tool_calls: calls, finish });
      if (!call) return;
      const call_id = calls[0].id;
      record("tool.called", turn, { call_id, name: "look", arguments: { n } });
      record("tool.finished", turn, { call_id, status: "succeeded", result: { n } });
    });
    if (end === "failed") record("turn.failed", turn, { code: "internal", message: "no", retryable: true });
    else record(`turn.${end}`, turn, { usage, first_token_ms: 5 });
  });
  return timeline;
}

/** The texts that the log holds at the end, one list for each turn. */
export function textsOf(timeline) {
  const texts = {};
  for (const { type, data } of timeline) {
    if (data.turn_id) texts[data.turn_id] ??= [];
    if (type === "message.completed") texts[data.turn_id].push(data.text);
  }
  return texts;
}

/** Serves one conversation whose course is `timeline`; `now` counts what has happened. */
export class FakeServer {
  /** `faults` are used one after the other, one for each connection; then everything works. */
  constructor(timeline, { faults = [], now = 0 } = {}) {
    this.timeline = timeline;
    this.now = now;
    this.faults = [...faults];
    this.requests = [];
    this.token = "token-0";
    this.issued = 0;
    this.refused = new Set();
    this.open = 0;
    this.fetch = this.fetch.bind(this);
    this.issue = this.issue.bind(this);
  }

  /** Hands out the token that is valid at the moment. */
  async issue() {
    this.issued++;
    return this.token;
  }

  get seq() {
    return this.timeline.slice(0, this.now).findLast((step) => step.seq)?.seq ?? 0;
  }

  async fetch(url, init = {}) {
    const { pathname, searchParams } = new URL(url);
    const headers = new Headers(init.headers);
    this.requests.push({ method: init.method ?? "GET", pathname, searchParams, headers, body: init.body });
    const fault = this.faults.shift() ?? {};
    await setImmediate();
    init.signal?.throwIfAborted();
    if (fault.kind === "refused") throw new TypeError("fetch failed");
    // A new token works until everybody who was refused has used it.
    if (fault.kind === "expired" && !this.refused.size) this.token = `token-${this.requests.length}`;
    if (headers.get("authorization") !== `Bearer ${this.token}`) {
      this.refused.add(String(url));
      return problem(401, "unauthenticated");
    }
    this.refused.delete(String(url));
    if (fault.kind === "busy") return problem(503, "overloaded", { "retry-after": "0" });
    if (fault.kind === "proxy") return new Response("<h1>Bad gateway</h1>", { status: 502 });
    this.now = Math.min(this.timeline.length, this.now + (fault.passes ?? 0));
    if (pathname.endsWith("/events")) return this.#stream(headers.get("last-event-id"), fault, init.signal);
    if (pathname.endsWith("/messages")) return Response.json(this.#page(searchParams));
    return Response.json({ id: "conv_1", last_seq: this.seq });
  }

  /** What a page of messages says: the whole turns and messages of the log as it is now. */
  #page(query) {
    const done = this.timeline.slice(0, this.now);
    const messages = [];
    const turns = new Map();
    for (const { type, data } of done) {
      const turn = turns.get(data.turn_id);
      const message = (role, id, content, more = {}) =>
        messages.push({ id, turn_id: data.turn_id, role, content, created_at: data.at, seq: data.seq, ...more });
      const part = (text) => (text ? [{ type: "text", text }] : []);
      if (type === "turn.queued") {
        turns.set(data.turn_id, {
          id: data.turn_id, status: "queued", attempt: 0, waiting: null, metadata: {}, tool_calls: [], guardrails: [],
          usage, feedback: null, error: null, first_token_ms: null, finished_at: null,
        });
        message("user", `msg_in_${data.turn_id}`, part(data.input));
      } else if (type === "turn.started") Object.assign(turn, { status: "running", attempt: data.attempt });
      else if (type === "message.completed") {
        message("assistant", data.message_id, part(data.text));
        turn.tool_calls.push(...data.tool_calls.map((call) => ({ ...call, status: "proposed" })));
      } else if (type === "tool.finished") {
        const call = turn.tool_calls.find(({ id }) => id === data.call_id);
        Object.assign(call, { status: data.status, result: data.result });
        message("tool", `msg_${data.call_id}`, part(JSON.stringify(data.result)));
      } else if (type.startsWith("turn.")) {
        Object.assign(turn, { status: type.slice(5), finished_at: data.at, first_token_ms: data.first_token_ms ?? null });
        if (type === "turn.failed") turn.error = { code: data.code, message: data.message };
      }
    }
    if (query.get("order") === "desc") messages.reverse();
    const before = Number(query.get("cursor") ?? Infinity);
    const left = messages.filter(({ seq }) => query.get("order") !== "desc" || seq < before);
    const data = left.slice(0, Number(query.get("limit") ?? 20));
    const ids = new Set(data.map((message) => message.turn_id));
    return {
      data,
      turns: [...turns.values()].filter((turn) => ids.has(turn.id)),
      next_cursor: data.length < left.length ? String(data.at(-1).seq) : null,
      last_seq: this.seq,
    };
  }

  #stream(position, fault, signal) {
    const [seq, offset = 0] = (position ?? "0").split("~")[0].split(".").map(Number);
    if (seq > this.seq) return problem(410, "not_resumable");
    const events = this.#events(seq, offset);
    const server = this;
    server.open++;
    let sent = 0;
    let ended = false;
    const end = () => {
      if (!ended) server.open--;
      ended = true;
    };
    const body = new ReadableStream(
      {
        async pull(controller) {
          await setImmediate();
          if (ended) return;
          const { done, value } = events.next();
          // A conversation's stream stays open.
          if (done) return new Promise((resolve) => signal.addEventListener("abort", resolve));
          let bytes = encoder.encode(value);
          const left = (fault.after ?? Infinity) - sent;
          if (bytes.length < left) {
            sent += bytes.length;
            return controller.enqueue(bytes);
          }
          bytes = bytes.slice(0, left);
          if (bytes.length) controller.enqueue(bytes);
          sent += bytes.length;
          if (fault.kind === "silent") return new Promise((resolve) => signal.addEventListener("abort", resolve));
          end();
          if (fault.kind === "broken") controller.error(new TypeError("terminated"));
          else controller.close();
        },
        cancel: end,
      },
      { highWaterMark: 0 },
    );
    signal?.addEventListener("abort", () => {
      if (ended) return;
      end();
      try {
        // As `fetch` does it.
        body.locked || body.cancel();
      } catch {}
    });
    return new Response(body, { headers: { "content-type": "text/event-stream", "x-request-id": "req" } });
  }

  /** The stream behind a position, as API.md says it ("Resume"). Time passes when there is nothing left to send. */
  *#events(fromSeq, fromOffset) {
    yield ": stream\n\nretry: 2\n\n";
    let seq = 0;
    let offset = 0;
    /** Whether the position lies in the segment that is walked through. */
    let isOpen = fromSeq === 0;
    for (let i = 0; i < this.timeline.length; i++) {
      const step = this.timeline[i];
      if (step.seq) {
        if (i >= this.now) this.now = i + 1;
        seq = step.seq;
        if (OPENS_SEGMENT.has(step.type)) {
          offset = 0;
          isOpen = seq >= fromSeq;
        }
        if (seq > fromSeq) yield frame(step.type, offset ? `${seq}.${offset}` : `${seq}`, step.data);
        continue;
      }
      const isPast = i < this.now;
      const segment = this.#segmentAt(i);
      const before = offset;
      offset += bytesOf(step.data.text);
      // Already sent: in an earlier segment, or before the offset in the one of the position.
      if (segment.closedBy <= fromSeq) continue;
      const from = segment.openedBy <= fromSeq ? fromOffset : 0;
      if (offset <= from) continue;
      if (!isPast) this.now = i + 1;
      // What was discarded meanwhile is not told.
      else if (segment.isReset && segment.closedAt < this.now) continue;
      const text = new TextDecoder().decode(encoder.encode(step.data.text).slice(Math.max(0, from - before)));
      const number = Math.max(seq, fromSeq);
      yield frame("message.delta", `${number}.${offset}`, { ...step.data, seq: number, text });
    }
  }

  #segmentAt(index) {
    const opens = this.timeline.slice(0, index).findLast(({ type }) => OPENS_SEGMENT.has(type));
    const length = this.timeline.slice(index).findIndex(({ type }) => type !== "turn.started" && OPENS_SEGMENT.has(type));
    const closedAt = length < 0 ? Infinity : index + length;
    const closes = this.timeline[closedAt];
    return {
      openedBy: opens?.seq ?? 0,
      closedBy: closes?.seq ?? Infinity,
      closedAt,
      isReset: closes?.type === "message.reset",
    };
  }
}

const frame = (type, id, data) => `event: ${type}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;

export function problem(status, code, headers = {}) {
  const body = { type: `https://copilotd.dev/problems/${code}`, title: code, status, code, request_id: "req_1", retry: "safe" };
  return Response.json(body, { status, headers: { ...headers, "content-type": "application/problem+json" } });
}
