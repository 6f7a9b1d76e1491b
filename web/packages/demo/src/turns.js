// What is known of a conversation's turns. It begins with what `GET` says (messages and turns) and goes on with the
// stream's events.
//
// The stream is opened behind the page's `last_seq`, while messages and turns may have been read a little later. So an
// event may tell what is known already, and must change nothing then: messages and calls have ids, a message that is
// complete takes no more text, and neither a turn nor a call goes back to an earlier state.

import { reset } from "./sentences.js";

const RANK = { proposed: 0, awaiting_approval: 1, running: 2 };
const rank = (status) => RANK[status] ?? 3;
const ENDED = ["completed", "failed", "cancelled"];

export const EVENTS = [
  "turn.queued",
  "turn.started",
  "turn.waiting",
  "context.assembled",
  "message.delta",
  "message.completed",
  "message.reset",
  "approval.requested",
  "approval.decided",
  "client_tool.requested",
  "tool.called",
  "tool.finished",
  "guardrail.triggered",
  "model.fallback",
  "memory.compressed",
  "conversation.titled",
  "conversation.erased",
  "turn.completed",
  "turn.failed",
  "turn.cancelled",
];

/** The words of an input or of a message. */
export function words(content) {
  return typeof content === "string" ? content : content.map((part) => part.text ?? "").join("\n");
}

export class Turn {
  constructor(id, seq, input, metadata = {}) {
    this.id = id;
    this.seq = seq;
    this.input = words(input);
    this.metadata = metadata;
    this.status = "queued";
    this.attempt = 0;
    /**
     * Messages (`{kind: "message", id, text, done, finish, citations}`), calls and notes, in the order in which they
     * came.
     */
    this.items = [];
    this.error = this.usage = this.waiting = this.firstTokenMs = this.rating = this.finishedAt = null;
  }

  get ended() {
    return ENDED.includes(this.status);
  }

  /** What it is doing, as API.md's turn object says it. */
  get state() {
    const asks = this.status === "running" && this.calls().some((call) => call.status === "awaiting_approval");
    return asks ? "awaiting_approval" : this.status;
  }

  calls() {
    return this.items.filter((item) => item.kind === "call");
  }

  /** The message that is being written. */
  get open() {
    return this.items.find((item) => item.kind === "message" && !item.done);
  }

  /** Builds a turn from its messages (by rising `seq`) and what their page says of it. */
  static from(messages, view) {
    const turn = new Turn(view.id, messages[0].seq, messages[0].content, view.metadata);
    const calls = [...view.tool_calls];
    // A step's message comes first, then one result per call it made. Calls without a result are the last step's.
    for (const message of messages) {
      if (message.role === "assistant") {
        const { id, content, citations } = message;
        turn.items.push({ kind: "message", id, text: words(content), done: true, citations });
      } else if (message.role === "tool" && calls.length) turn.#call(calls.shift());
    }
    for (const call of calls) turn.#call(call);
    for (const { rule, stage, action } of view.guardrails)
      turn.note(`guardrail:${rule}:${stage}`, guardrail(rule, action));
    turn.status = view.status === "awaiting_approval" ? "running" : view.status;
    turn.attempt = view.attempt;
    turn.error = view.error;
    turn.rating = view.feedback?.rating ?? null;
    turn.waiting = view.waiting;
    turn.firstTokenMs = view.first_token_ms;
    turn.finishedAt = view.finished_at;
    if (turn.ended) turn.usage = view.usage;
    return turn;
  }

  #call({ id, name, arguments: given, status, result, error, expires_at }) {
    this.items.push({ kind: "call", id, name, arguments: given, status, result, error, expiresAt: expires_at });
  }

  note(id, text) {
    if (!this.items.some((item) => item.id === id)) this.items.push({ kind: "note", id, text });
  }

  #message(id) {
    let found = this.items.find((item) => item.id === id);
    if (!found) this.items.push((found = { kind: "message", id, text: "", done: false }));
    return found;
  }

  #change(id, status, more = {}) {
    const call = this.items.find((item) => item.id === id);
    if (!call || rank(status) < rank(call.status) || (rank(call.status) === 3 && rank(status) === 3)) return;
    Object.assign(call, { status }, more);
  }

  /** Takes an event of this turn. */
  apply(type, data) {
    if (type !== "turn.waiting" && type !== "turn.queued") this.waiting = null;
    switch (type) {
      case "turn.started":
        if (!this.ended) this.status = "running";
        this.attempt = data.attempt;
        break;
      case "turn.waiting":
        this.waiting = { reason: data.reason, until: data.until };
        break;
      case "message.delta": {
        const message = this.#message(data.message_id);
        if (!message.done) message.text += data.text;
        break;
      }
      case "message.completed": {
        const message = this.#message(data.message_id);
        Object.assign(message, { text: data.text, done: true, finish: data.finish, citations: data.citations });
        for (const call of data.tool_calls) {
          if (!this.items.some((item) => item.id === call.id)) this.#call({ ...call, status: "proposed" });
        }
        break;
      }
      case "message.reset": {
        const at = this.items.findIndex((item) => item.id === data.message_id);
        if (this.items[at]?.done) break;
        if (at >= 0) this.items.splice(at, 1);
        // That a turn was stopped is told by its end.
        if (data.reason !== "stopped") this.note(`reset:${data.seq}`, reset(data.reason));
        break;
      }
      case "approval.requested":
        this.#change(data.call_id, "awaiting_approval", { arguments: data.arguments, expiresAt: data.expires_at });
        break;
      case "approval.decided":
        this.#change(data.call_id, data.decision === "approved" ? "running" : "rejected", {
          decided: data.decision === "expired" ? "expired" : `${data.decision} by ${data.by}`,
          ...(data.arguments && { arguments: data.arguments }),
        });
        break;
      case "client_tool.requested":
        this.#change(data.call_id, "proposed", { arguments: data.arguments, expiresAt: data.expires_at });
        break;
      case "tool.called":
        this.#change(data.call_id, "running", { arguments: data.arguments, expiresAt: data.expires_at ?? null });
        break;
      case "tool.finished":
        this.#finish(data);
        break;
      case "guardrail.triggered":
        this.note(`guardrail:${data.rule}:${data.stage}`, guardrail(data.rule, data.action));
        break;
      case "model.fallback":
        this.note(`fallback:${data.seq}`, `${data.from} did not answer in time; ${data.to} took over`);
        break;
      case "memory.compressed":
        this.note(
          `memory:${data.seq}`,
          `Earlier messages were summarised: ${data.tokens_before} tokens became ${data.tokens_after}`,
        );
        break;
      case "turn.completed":
      case "turn.cancelled":
        this.#end(type.slice(5), data.at, {
          usage: data.usage,
          firstTokenMs: data.first_token_ms ?? this.firstTokenMs,
        });
        break;
      case "turn.failed":
        this.#end("failed", data.at, { error: { code: data.code } });
        break;
    }
  }

  /** A rejection comes twice, as the decision and as the call's end, which alone says why. */
  #finish({ call_id, status, result, error }) {
    const call = this.items.find((item) => item.id === call_id);
    if (call) Object.assign(call, { status, result, error, expiresAt: null });
  }

  #end(status, at, more) {
    Object.assign(this, { status, waiting: null, finishedAt: at }, more);
    // Nothing more comes: text that is still open was cut off with the turn.
    for (const item of this.items) if (item.kind === "message") item.done = true;
  }
}

function guardrail(rule, action) {
  const what = {
    allow: "was noted",
    redact: "took something out",
    block: "stopped it",
    repair: "sent it back to the model",
  };
  return `The safety rule “${rule.replaceAll("_", " ")}” ${what[action] ?? "was applied"}`;
}

/** Gathers messages, newest page first, until their turns are whole: those whose first message is here. */
export class History {
  constructor(api, conversation) {
    this.api = api;
    this.path = `/v1/conversations/${conversation}/messages`;
    this.cursor = null;
    this.rest = [];
    this.lastSeq = 0;
    this.more = true;
  }

  /** Reads on, towards the beginning. */
  async earlier(signal) {
    let found = [];
    let views = new Map();
    while (this.more && !found.length) {
      const query = new URLSearchParams({ order: "desc", limit: "100", ...(this.cursor && { cursor: this.cursor }) });
      const page = await this.api.insist("GET", `${this.path}?${query}`, { signal });
      if (!this.cursor) this.lastSeq = page.last_seq;
      this.cursor = page.next_cursor;
      this.more = Boolean(this.cursor);
      // A turn whose messages began on the page before is on this one too, as it is now.
      for (const view of page.turns) views.set(view.id, view);
      const byTurn = Map.groupBy(
        [...this.rest, ...page.data].sort((a, b) => a.seq - b.seq),
        (message) => message.turn_id,
      );
      const isWhole = (messages) => messages[0].role === "user" && views.has(messages[0].turn_id);
      found = [...byTurn.values()].filter(isWhole);
      this.rest = [...byTurn.values()].filter((messages) => !isWhole(messages)).flat();
    }
    return found.map((messages) => Turn.from(messages, views.get(messages[0].turn_id)));
  }
}
