// packages/client/src/environment.ts
function randomId() {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
function onWake(callback) {
  const ended2 = new AbortController();
  const options2 = { signal: ended2.signal };
  const page = globalThis.document;
  const visible = () => page?.visibilityState !== "hidden" && callback(false);
  const listen2 = globalThis.addEventListener;
  listen2?.("online", () => callback(true), options2);
  listen2?.("pageshow", visible, options2);
  page?.addEventListener("visibilitychange", visible, options2);
  return () => ended2.abort();
}
function pause(ms, signal, canWake) {
  let timer;
  let stopWaking;
  const waited = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
    if (canWake) stopWaking = onWake(() => resolve());
  });
  return abortable(waited, signal).finally(() => {
    clearTimeout(timer);
    stopWaking?.();
  });
}
function abortable(promise, signal) {
  const controller = new AbortController();
  const unlink = linkSignals(controller, signal);
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    controller.signal.addEventListener("abort", () => reject(signal.reason));
    promise.then(resolve, reject);
  }).finally(unlink);
}
function delayOf(failures, { base, cap }, retryAfter = 0, random = Math.random) {
  const most = Math.min(cap, base * 2 ** Math.min(failures, 20));
  return Math.min(retryAfter, 3e5) + most * (0.1 + 0.9 * random());
}
function linkSignals(controller, signal) {
  if (!signal) return () => {
  };
  if (signal.aborted) controller.abort(signal.reason);
  const abort = () => controller.abort(signal.reason);
  signal.addEventListener("abort", abort);
  return () => signal.removeEventListener("abort", abort);
}
function backOff(failures, backoff, retryAfter, signal) {
  return pause(delayOf(failures, backoff, retryAfter), signal, !retryAfter);
}

// packages/client/src/errors.ts
var CopilotdError = class extends Error {
  name = "CopilotdError";
  constructor(facts, cause) {
    super(facts.detail ?? facts.title, { cause });
    Object.assign(this, { status: 0, retry: "never" }, facts);
  }
};
var BudgetExhaustedError = class extends CopilotdError {
};
var ConflictError = class extends CopilotdError {
};
var ForbiddenError = class extends CopilotdError {
};
var IdempotencyKeyReusedError = class extends CopilotdError {
};
var InternalError = class extends CopilotdError {
};
var InvalidError = class extends CopilotdError {
};
var MalformedError = class extends CopilotdError {
};
var MethodNotAllowedError = class extends CopilotdError {
};
var NotAcceptableError = class extends CopilotdError {
};
var NotFoundError = class extends CopilotdError {
};
var NotResumableError = class extends CopilotdError {
};
var NotWaitingError = class extends CopilotdError {
};
var OverloadedError = class extends CopilotdError {
};
var QueueFullError = class extends CopilotdError {
};
var QuotaExceededError = class extends CopilotdError {
};
var RateLimitedError = class extends CopilotdError {
};
var RequestTimeoutError = class extends CopilotdError {
};
var TooLargeError = class extends CopilotdError {
};
var TurnRunningError = class extends CopilotdError {
};
var UnauthenticatedError = class extends CopilotdError {
};
var UnavailableError = class extends CopilotdError {
};
var UnsupportedMediaTypeError = class extends CopilotdError {
};
var CLASSES = {
  budget_exhausted: BudgetExhaustedError,
  conflict: ConflictError,
  forbidden: ForbiddenError,
  idempotency_key_reused: IdempotencyKeyReusedError,
  internal: InternalError,
  invalid: InvalidError,
  malformed: MalformedError,
  method_not_allowed: MethodNotAllowedError,
  not_acceptable: NotAcceptableError,
  not_found: NotFoundError,
  not_resumable: NotResumableError,
  not_waiting: NotWaitingError,
  overloaded: OverloadedError,
  queue_full: QueueFullError,
  quota_exceeded: QuotaExceededError,
  rate_limited: RateLimitedError,
  timeout: RequestTimeoutError,
  too_large: TooLargeError,
  turn_running: TurnRunningError,
  unauthenticated: UnauthenticatedError,
  unavailable: UnavailableError,
  unsupported_media_type: UnsupportedMediaTypeError
};
var ConnectionError = class extends CopilotdError {
  constructor(detail2, cause) {
    super({ code: "unreachable", title: "The server cannot be reached", detail: detail2, retry: "unsafe" }, cause);
  }
};
var UnexpectedAnswerError = class extends CopilotdError {
  constructor(title, more = {}, cause) {
    super({ ...more, code: "unexpected_answer", title }, cause);
  }
};
var TurnFailedError = class extends CopilotdError {
};
var OutboxFullError = class extends CopilotdError {
  constructor() {
    super({ code: "outbox_full", title: "Too many messages are waiting" });
  }
};
function retryAfterOf(value, now = Date.now()) {
  if (!value) return void 0;
  const isDate = value.includes(":");
  const ms = isDate ? Date.parse(value) - now : /^ *\d+ *$/.test(value) ? Number(value) * 1e3 : NaN;
  return Number.isNaN(ms) ? void 0 : Math.max(0, ms);
}
async function errorOf(response) {
  const { status, headers } = response;
  const problem = await response.json().catch(() => null);
  const requestId = problem?.request_id ?? headers.get("x-request-id") ?? void 0;
  const facts = { status, requestId, retryAfter: retryAfterOf(headers.get("retry-after")) };
  if (typeof problem?.code !== "string" || typeof problem.title !== "string") {
    const retry2 = status >= 500 ? "unsafe" : "never";
    return new UnexpectedAnswerError(`Unexpected answer with status ${status}`, { ...facts, retry: retry2 });
  }
  const { code, title, detail: detail2, retry, errors } = problem;
  const Class = Object.hasOwn(CLASSES, code) ? CLASSES[code] : CopilotdError;
  return new Class({ ...facts, code, title, detail: detail2, retry, errors });
}
function isTransient(error) {
  if (!(error instanceof CopilotdError)) return false;
  return error.status === 0 ? error.code === "unreachable" : error.status === 408 || error.status >= 500 || error.code === "rate_limited" || error.code === "queue_full";
}

// packages/client/src/sse.ts
var MAX_CHARS = 64 * 1024 * 1024;
var SseParser = class {
  /** The last `id:`, committed by the empty line that ends its block. */
  id = "";
  /** What the last `retry:` said, in milliseconds. */
  retry;
  #decoder = new TextDecoder();
  /** The pieces of the line that is not complete yet: joined once, so that a long line costs no more than its length. */
  #line = [];
  #chars = 0;
  #afterCr = false;
  #event = "";
  #data = [];
  #nextId = "";
  /** Takes the next bytes and returns the events that they complete. */
  push(bytes) {
    const messages = [];
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return messages;
    const isLastCr = text.endsWith("\r");
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#afterCr = isLastCr;
    let start2 = 0;
    const lineEnd = /\r\n?|\n/g;
    for (let end; end = lineEnd.exec(text); start2 = lineEnd.lastIndex) {
      this.#keep(text.slice(start2, end.index));
      this.#endLine(messages);
    }
    this.#keep(text.slice(start2));
    return messages;
  }
  #keep(piece) {
    if (!piece) return;
    this.#chars += piece.length;
    if (this.#chars > MAX_CHARS) throw new RangeError(`an event of more than ${MAX_CHARS} characters`);
    this.#line.push(piece);
  }
  #endLine(messages) {
    const line = this.#line.length === 1 ? this.#line[0] : this.#line.join("");
    this.#line = [];
    if (line) return this.#field(line);
    this.id = this.#nextId;
    if (this.#data.length) {
      messages.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.id });
    }
    this.#event = "";
    this.#data = [];
    this.#chars = 0;
  }
  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") this.#data.push(value);
    else {
      this.#chars -= line.length;
      if (name === "event") this.#event = value;
      else if (name === "id" && !value.includes("\0")) this.#nextId = value;
      else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    }
  }
};

// packages/client/src/stream.ts
var TERMINAL = /* @__PURE__ */ new Set(["turn.completed", "turn.failed", "turn.cancelled"]);
var isTerminal = (event) => TERMINAL.has(event.type);
var WAKE_SILENCE = 2e4;
var NETWORK_SILENCE = 2e3;
function follow(transport, path, options2, isLast) {
  const controller = new AbortController();
  const unlink = linkSignals(controller, options2.signal);
  const events = generate(transport, path, options2, isLast, controller.signal, unlink);
  return {
    next: () => events.next(),
    // A generator that waits for the network would finish that wait first.
    return: () => {
      controller.abort(ENDED);
      unlink();
      return events.return(void 0);
    },
    [Symbol.asyncIterator]() {
      return this;
    }
  };
}
var ENDED = new Error("the stream was ended");
async function* generate(transport, path, { after, start: start2, onStatus, silence = 45e3 }, isLast, signal, unlink) {
  let position = String(after ?? "");
  let failures = 0;
  let { backoff } = transport;
  onStatus?.("connecting");
  try {
    for (; ; ) {
      let problem;
      const connection = new AbortController();
      const close = [linkSignals(connection, signal)];
      try {
        if (!position && start2) position = String(await start2(signal));
        const reader = await open(transport, path, position, connection, close);
        if (!reader) return void 0;
        onStatus?.("live");
        const parser = new SseParser();
        for (let piece; piece = await read(reader, connection, silence); ) {
          failures = 0;
          for (const message2 of parser.push(piece)) {
            const event = decode(message2);
            if (!event) continue;
            yield event;
            if (isLast(event)) return void 0;
          }
          position = parser.id || position;
          backoff = { ...backoff, base: Math.min(parser.retry ?? backoff.base, backoff.cap) };
        }
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (!isTransient(error)) throw error;
        problem = error;
      } finally {
        connection.abort(ENDED);
        for (const end of close) end();
      }
      onStatus?.("reconnecting", problem);
      await backOff(failures++, backoff, problem?.retryAfter, signal);
    }
  } catch (error) {
    if (error !== ENDED) throw error;
    return void 0;
  } finally {
    unlink();
  }
}
async function open(transport, path, position, connection, close) {
  const { signal } = connection;
  const headers = { accept: "text/event-stream", ...position && { "last-event-id": position } };
  const { response, arrived, done } = await transport.open("GET", path, { headers, signal });
  close.push(done);
  arrived();
  if (response.status === 204) return void 0;
  const type = response.headers.get("content-type");
  if (!response.body || !type?.startsWith("text/event-stream")) {
    throw new UnexpectedAnswerError(`Not an event stream: ${type}`, { status: response.status });
  }
  const reader = response.body.getReader();
  signal.addEventListener("abort", () => void reader.cancel().catch(() => {
  }));
  return reader;
}
async function read(reader, connection, silence) {
  const since = Date.now();
  const lose = () => connection.abort(new ConnectionError("the stream fell silent"));
  const timer = setTimeout(lose, silence);
  const stopWaking = onWake((isNetwork) => {
    if (Date.now() - since > (isNetwork ? NETWORK_SILENCE : WAKE_SILENCE)) lose();
  });
  try {
    return (await reader.read()).value;
  } catch (error) {
    throw new ConnectionError("the stream broke off", error);
  } finally {
    clearTimeout(timer);
    stopWaking();
    connection.signal.throwIfAborted();
  }
}
function decode({ event, data, id }) {
  if (!data) return void 0;
  try {
    return { ...JSON.parse(data), type: event, position: id };
  } catch (cause) {
    throw new UnexpectedAnswerError("An event is not JSON", {}, cause);
  }
}

// packages/client/src/calls.ts
function createConversation(transport, body = {}, { idempotencyKey, signal } = {}) {
  return transport.json("POST", "/v1/conversations", { body, key: idempotencyKey ?? randomId(), signal });
}
function listConversations(transport, { limit, cursor, q, signal } = {}) {
  return transport.json("GET", `/v1/conversations${query({ limit, cursor, q })}`, { signal });
}
var ConversationCalls = class {
  constructor(transport, id) {
    this.id = id;
    this.transport = transport;
    this.path = `/v1/conversations/${encodeURIComponent(id)}`;
  }
  id;
  transport;
  path;
  /** The waits after failures. */
  get backoff() {
    return this.transport.backoff;
  }
  update(body, { signal } = {}) {
    return this.transport.json("PATCH", this.path, { body, signal });
  }
  /** Erases the conversation everywhere. A conversation that is gone already counts as erased. */
  delete({ signal } = {}) {
    return erase(this.transport, this.path, signal);
  }
  /** A page of messages with their turns; the oldest first unless `order` says otherwise. */
  messages({ limit, cursor, order, signal } = {}) {
    return this.transport.json("GET", `${this.path}/messages${query({ limit, cursor, order })}`, { signal });
  }
  /** The conversation's events behind a position, over all turns, until it is erased. */
  events(options2 = {}) {
    return follow(this.transport, `${this.path}/events`, options2, isErased);
  }
};
var TurnCalls = class {
  constructor(transport, id) {
    this.id = id;
    this.transport = transport;
    this.path = `/v1/turns/${encodeURIComponent(id)}`;
  }
  id;
  transport;
  path;
  /** Stops the turn. Stopping one that has ended changes nothing. */
  cancel({ signal } = {}) {
    return this.#post("cancel", void 0, signal);
  }
  /** Lets a tool call run, with other arguments if some are given. */
  approve(callId, { arguments: edited, reason, signal } = {}) {
    return this.#decide(callId, { decision: "approve", arguments: edited, reason }, signal);
  }
  /** Refuses a tool call. The turn goes on without it. */
  reject(callId, { reason, signal } = {}) {
    return this.#decide(callId, { decision: "reject", reason }, signal);
  }
  #decide(callId, body, signal) {
    return this.#post(`approvals/${encodeURIComponent(callId)}`, body, signal);
  }
  /** Claims a call of a client tool; `NotWaitingError` if another page has it, or if it is too late. */
  claim(callId, { idempotencyKey, signal } = {}) {
    return this.#clientTool(callId, { claim: true }, signal, idempotencyKey ?? randomId());
  }
  /** Answers a call that was claimed. The same answer may be sent again. */
  answer(callId, claim, answer, { signal } = {}) {
    return this.#clientTool(callId, { claim, ...answer }, signal);
  }
  #clientTool(callId, body, signal, key) {
    return this.#post(`client-tools/${encodeURIComponent(callId)}`, body, signal, key);
  }
  feedback(rating, { comment: comment2, signal } = {}) {
    return this.#post("feedback", { rating, comment: comment2 }, signal);
  }
  #post(what, body, signal, key) {
    return this.transport.json("POST", `${this.path}/${what}`, { body, key, signal });
  }
};
async function erase(transport, path, signal) {
  try {
    await transport.json("DELETE", path, { signal });
  } catch (error) {
    if (!(error instanceof NotFoundError)) throw error;
  }
}
var isErased = (event) => event.type === "conversation.erased";
function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value != null) search.set(name, String(value));
  return `?${search}`;
}

// packages/client/src/outbox.ts
function memoryStorage() {
  const map = /* @__PURE__ */ new Map();
  return {
    keys: () => [...map.keys()],
    getItem: (key) => map.get(key) ?? null,
    setItem: (key, value) => void map.set(key, value),
    removeItem: (key) => void map.delete(key)
  };
}
var KEY_LIFE = 23 * 60 * 60 * 1e3;
var NEEDS_NEW_KEY = /* @__PURE__ */ new Set(["outcome_unknown", "idempotency_key_reused"]);
var SENT_LIMIT = 100;
var Outbox = class {
  #transport;
  #storage;
  #prefix;
  #limit;
  #listeners = /* @__PURE__ */ new Set();
  #lanes = /* @__PURE__ */ new Set();
  #channel;
  #closed = new AbortController();
  #stopWaking;
  #stored = [];
  #sending = /* @__PURE__ */ new Set();
  #sent = [];
  #entries = [];
  /** Reads and writes of the storage, one after the other. */
  #queue = Promise.resolve();
  constructor(transport, options2 = {}) {
    if (options2.storage && !options2.user) throw new TypeError("outbox.user is needed with outbox.storage");
    this.#transport = transport;
    this.#storage = options2.storage ?? memoryStorage();
    this.#prefix = `copilotd.outbox/${encodeURIComponent(options2.user ?? "")}/`;
    this.#limit = options2.limit ?? 100;
    const reload = () => void this.#update().catch(() => {
    });
    if (options2.storage && typeof BroadcastChannel === "function") {
      this.#channel = new BroadcastChannel(this.#prefix);
      this.#channel.onmessage = reload;
      this.#channel.unref?.();
    }
    this.#stopWaking = onWake(reload);
    reload();
  }
  /** The messages by age, in their present state. The same array until something changes. */
  entries() {
    return this.#entries;
  }
  /** Calls back after each change. Returns a function that ends this. */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
  /**
   * Stores a message and sends it as soon as possible. Resolves once it is stored. With a draft in place of a
   * conversation's id, the conversation is created first. Throws `OutboxFullError`, and what the storage throws.
   */
  async add(to, body) {
    const key = randomId();
    await this.#update(async (stored) => {
      if (stored.length >= this.#limit) throw new OutboxFullError();
      const isDraft = typeof to !== "string";
      const lane = isDraft ? to.key : stored.find((entry2) => entry2.conversationId === to)?.lane ?? to;
      const entry = {
        key,
        lane,
        conversationId: isDraft ? null : to,
        draft: isDraft ? to : null,
        body,
        // Behind everything that waits, also if it was written in the same millisecond.
        createdAt: Math.max(Date.now(), (stored.at(-1)?.createdAt ?? 0) + 1),
        firstAttemptAt: null,
        failures: 0,
        error: null,
        isFailed: false
      };
      await this.#write(entry);
      return [...stored, entry];
    });
    return this.#entries.find((entry) => entry.key === key);
  }
  /**
   * Sends a failed message again, under its own key: if an earlier attempt arrived without an answer, there is still
   * one turn. Only where the server can know the key no more it gets a new one (`outcome_unknown`: check the
   * conversation first).
   */
  retry(key) {
    return this.#change(key, async (entry) => {
      if (!entry.isFailed) return entry;
      const again = { ...entry, isFailed: false, error: null, failures: 0 };
      if (!NEEDS_NEW_KEY.has(entry.error?.code ?? "")) return again;
      await this.#storage.removeItem(this.#nameOf(entry));
      return { ...again, key: randomId(), firstAttemptAt: null };
    });
  }
  /**
   * Forgets a message. What is being sent at this moment is not stopped. What was tried before (`failures`) may have
   * arrived without an answer.
   */
  discard(key) {
    this.#sent = this.#sent.filter((entry) => entry.key !== key);
    return this.#change(key, (entry) => this.#sending.has(key) ? entry : void 0);
  }
  /** Forgets sent messages whose turns are shown by now. */
  settle(turnIds) {
    const sent = this.#sent.filter(({ turnId }) => turnId === null || !turnIds.has(turnId));
    if (sent.length === this.#sent.length) return;
    this.#sent = sent;
    this.#show(this.#stored);
  }
  /** Stops sending. What is stored stays stored. */
  close() {
    this.#closed.abort(CLOSED);
    this.#stopWaking();
    this.#channel?.close();
  }
  #nameOf({ createdAt, key }) {
    return `${this.#prefix}${String(createdAt).padStart(15, "0")}/${key}`;
  }
  #exclusive(work) {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => {
    });
    return result;
  }
  #write(entry) {
    return this.#storage.setItem(this.#nameOf(entry), JSON.stringify(entry));
  }
  /** One name for each message, never a list: two tabs that write at the same time would lose one's message. */
  async #read() {
    const names = (await this.#storage.keys()).filter((name) => name.startsWith(this.#prefix)).sort();
    const values = await Promise.all(names.map((name) => this.#storage.getItem(name)));
    return values.flatMap(parse).filter((entry) => names.includes(this.#nameOf(entry)));
  }
  /** Reads, changes and shows what is stored, and sends what there is to send. Tells the other tabs of a change. */
  #update(change) {
    return this.#exclusive(async () => {
      this.#closed.signal.throwIfAborted();
      let stored = await this.#read();
      if (change) stored = await change(stored);
      this.#show(stored);
      if (change) this.#channel?.postMessage(0);
      for (const entry of stored) if (!entry.isFailed) this.#drain(entry.lane);
    });
  }
  /** Replaces an entry, or removes it. */
  #change(key, change) {
    return this.#update(async (stored) => {
      const result = [];
      for (const entry of stored) {
        const next = entry.key === key ? await change(entry) : entry;
        if (next && next !== entry) await this.#write(next);
        if (next) result.push(next);
        else await this.#storage.removeItem(this.#nameOf(entry));
      }
      return result;
    });
  }
  #show(stored) {
    this.#stored = stored;
    const waiting = stored.map((entry) => {
      return this.#sending.has(entry.key) ? { ...shown(entry), status: "sending" } : shown(entry);
    });
    this.#entries = [...this.#sent, ...waiting].sort((a, b) => a.createdAt - b.createdAt);
    for (const listener of [...this.#listeners]) listener();
  }
  /** Sends a lane's messages, unless it is being sent already. */
  #drain(lane) {
    if (this.#lanes.has(lane) || this.#closed.signal.aborted) return;
    this.#lanes.add(lane);
    void this.#sendAll(lane).catch(() => {
    });
  }
  async #sendAll(lane) {
    const { signal } = this.#closed;
    const { backoff } = this.#transport;
    const locks = this.#channel && typeof navigator !== "undefined" ? navigator.locks : void 0;
    for (let broken = 0; ; ) {
      try {
        const work = () => this.#attempt(lane);
        const wait = await (locks ? locks.request(this.#prefix + lane, { signal }, work) : work());
        broken = 0;
        if (!wait) return;
        if (wait.failures) await backOff(wait.failures - 1, backoff, wait.retryAfter, signal);
      } catch (error) {
        signal.throwIfAborted();
        await backOff(++broken, backoff, void 0, signal);
      }
    }
  }
  /**
   * Sends the oldest message of a lane once. Returns whether to wait before the next attempt (`failures` is 0 if not),
   * or nothing if the lane is empty.
   */
  async #attempt(lane) {
    const { signal } = this.#closed;
    const entry = await this.#exclusive(async () => {
      signal.throwIfAborted();
      const stored = await this.#read();
      const first = stored.find((other) => other.lane === lane && !other.isFailed);
      if (first) {
        this.#sending.add(first.key);
        first.firstAttemptAt ??= Date.now();
        await this.#write(first);
      } else this.#lanes.delete(lane);
      this.#show(stored);
      return first;
    });
    if (!entry) return void 0;
    const { key } = entry;
    try {
      if (Date.now() - entry.firstAttemptAt > KEY_LIFE) throw tooOld();
      let { conversationId } = entry;
      if (conversationId === null) {
        const { key: key2, body } = entry.draft;
        const request = { body, key: key2, signal, retries: 0 };
        conversationId = (await this.#transport.json("POST", "/v1/conversations", request)).id;
        const id = conversationId;
        await this.#change(entry.key, (stored) => ({ ...stored, conversationId: id }));
      }
      const path = `/v1/conversations/${encodeURIComponent(conversationId)}/turns`;
      const turn = await this.#transport.json("POST", path, { body: entry.body, key, signal, retries: 0 });
      await this.#change(key, (stored) => {
        this.#sending.delete(key);
        const sent = { ...shown(stored), status: "sent", error: null, turnId: turn.id };
        this.#sent = [...this.#sent, sent].slice(-SENT_LIMIT);
        return void 0;
      });
      return { failures: 0 };
    } catch (error) {
      signal.throwIfAborted();
      this.#sending.delete(key);
      if (!(error instanceof CopilotdError)) throw error;
      const isFailed = error.status !== 401 && !isTransient(error);
      const failures = entry.failures + 1;
      const { code, message: detail2 } = error;
      await this.#change(key, (stored) => ({ ...stored, isFailed, failures, error: { code, detail: detail2 } }));
      return isFailed ? { failures: 0 } : { failures, retryAfter: error.retryAfter };
    }
  }
};
function shown({ lane: _lane, firstAttemptAt: _first, isFailed, ...rest }) {
  return { ...rest, status: isFailed ? "failed" : "queued", turnId: null };
}
function parse(value) {
  try {
    const entry = JSON.parse(value ?? "null");
    return typeof entry?.key === "string" && typeof entry.lane === "string" ? [entry] : [];
  } catch {
    return [];
  }
}
var CLOSED = new Error("the outbox was closed");
var tooOld = () => new CopilotdError({
  code: "outcome_unknown",
  title: "Whether this message of yesterday was sent cannot be determined any more"
});

// packages/client/src/files.ts
var Files = class {
  #transport;
  constructor(transport) {
    this.#transport = transport;
  }
  /**
   * Uploads a file to a conversation. A prompt refers to it by a part `{ type: "file", file_id: id }`; one to which no
   * prompt refers is erased after a day.
   */
  upload(conversationId, blob, options2 = {}) {
    const { name, idempotencyKey, timeout = 6e5, signal } = options2;
    const body = new FormData();
    body.append("conversation_id", conversationId);
    body.append("file", blob, name ?? blob.name ?? "file");
    const key = idempotencyKey ?? randomId();
    return this.#transport.json("POST", "/v1/files", { body, key, timeout, signal });
  }
  /** The address of the content. It answers with a token only, so a plain link to it does not work: see `read`. */
  url(id) {
    return this.#transport.url(pathOf(id));
  }
  /** Reads the content. */
  async read(id, { signal } = {}) {
    const { response, arrived, done } = await this.#transport.open("GET", pathOf(id), { signal });
    try {
      arrived();
      return await response.blob();
    } finally {
      done();
    }
  }
  /** Deletes a file. One that is gone already counts as deleted. */
  delete(id, { signal } = {}) {
    return erase(this.#transport, pathOf(id), signal);
  }
};
var pathOf = (id) => `/v1/files/${encodeURIComponent(id)}`;

// packages/client/src/transport.ts
var LONGEST_WAIT = 3e4;
var Transport = class {
  backoff;
  #options;
  #fetch;
  /** The token that is used until the server refuses it. */
  #token;
  #renewal;
  constructor(options2) {
    this.#options = options2;
    this.#fetch = options2.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.backoff = options2.backoff ?? { base: 500, cap: 15e3 };
  }
  /**
   * Sends a request and reads the answer's JSON; `undefined` if it has none. Sent again after failures that pass by
   * themselves. All requests of this client may be: reads, and writes whose repetition has no second effect, by their
   * nature or by their idempotency key.
   */
  async json(method, path, options2 = {}) {
    const retries = options2.retries ?? this.#options.retries ?? 4;
    for (let failures = 0; ; failures++) {
      try {
        const { response, done } = await this.open(method, path, options2);
        try {
          if (response.status === 204) return void 0;
          return await response.json();
        } catch (error) {
          options2.signal?.throwIfAborted();
          throw new ConnectionError("the answer broke off", error);
        } finally {
          done();
        }
      } catch (error) {
        if (!isTransient(error) || error.code === "queue_full" || failures >= retries) throw error;
        if ((error.retryAfter ?? 0) > LONGEST_WAIT) throw error;
        await backOff(failures, this.backoff, error.retryAfter, options2.signal);
      }
    }
  }
  /**
   * Sends a request once, and once more with a new token if the server refuses the present one. Returns the answer
   * with its body unread; `signal` ends the reading too.
   */
  async open(method, path, options2 = {}) {
    const { body, key, headers, signal } = options2;
    const isForm = body instanceof FormData;
    const controller = new AbortController();
    const unlink = linkSignals(controller, signal);
    const timer = setTimeout(
      () => controller.abort(new ConnectionError("no answer in time")),
      options2.timeout ?? this.#options.timeout ?? 3e4
    );
    const arrived = () => clearTimeout(timer);
    const done = () => {
      arrived();
      unlink();
    };
    const send = (token) => this.#fetch(this.url(path), {
      method,
      headers: {
        ...this.#options.headers,
        ...headers,
        authorization: `Bearer ${token}`,
        ...body !== void 0 && !isForm && { "content-type": "application/json" },
        ...key !== void 0 && { "idempotency-key": key }
      },
      ...body !== void 0 && { body: isForm ? body : JSON.stringify(body) },
      // The token alone says who is calling.
      credentials: "omit",
      cache: "no-store",
      signal: controller.signal
    });
    try {
      const token = this.#token ?? await this.#renew(controller.signal);
      let response = await send(token);
      if (response.status === 401) {
        response.body?.cancel().catch(() => {
        });
        const isNew = this.#token !== void 0 && this.#token !== token;
        response = await send(isNew ? this.#token : await this.#renew(controller.signal));
      }
      if (!response.ok) throw await errorOf(response);
      return { response, arrived, done };
    } catch (error) {
      done();
      if (controller.signal.aborted) throw controller.signal.reason;
      throw error instanceof CopilotdError ? error : new ConnectionError(String(error), error);
    }
  }
  /** The whole address of a path. */
  url(path) {
    return this.#options.baseUrl.replace(/\/+$/, "") + path;
  }
  /** One renewal for all who wait. A waiter may give up; the renewal goes on for the others. */
  #renew(signal) {
    const renewal = this.#renewal ??= Promise.resolve().then(this.#options.token);
    const forget = () => {
      if (this.#renewal === renewal) this.#renewal = void 0;
    };
    signal.addEventListener("abort", forget);
    return abortable(
      renewal.then((token) => {
        this.#token = token;
        return token;
      }),
      signal
    ).finally(() => {
      signal.removeEventListener("abort", forget);
      forget();
    });
  }
};

// packages/client/src/client.ts
function createClient(options2) {
  return new Client(options2);
}
var Client = class {
  conversations;
  files;
  #transport;
  #outboxOptions;
  #outbox;
  constructor(options2) {
    this.#transport = new Transport(options2);
    this.#outboxOptions = options2.outbox;
    this.conversations = new Conversations(this.#transport);
    this.files = new Files(this.#transport);
    if (options2.outbox) void this.outbox;
  }
  /** A conversation that exists. Nothing is sent yet. */
  conversation(id) {
    return new ConversationHandle(this.#transport, id);
  }
  /** A turn that exists. Nothing is sent yet. */
  turn(id) {
    return new TurnHandle(this.#transport, id);
  }
  /** Messages that are sent exactly once, also when they are written offline. */
  get outbox() {
    return this.#outbox ??= new Outbox(this.#transport, this.#outboxOptions);
  }
  /** Stops the outbox. What it has stored stays stored. */
  close() {
    this.#outbox?.close();
  }
};
var Conversations = class {
  #transport;
  constructor(transport) {
    this.#transport = transport;
  }
  async create(body = {}, options2 = {}) {
    const made = await createConversation(this.#transport, body, options2);
    return new ConversationHandle(this.#transport, made.id, made);
  }
  /** A page, newest first. */
  list(options2) {
    return listConversations(this.#transport, options2);
  }
  /** Every conversation, newest first, read page by page as they are asked for. */
  async *all({ limit = 100, q, signal } = {}) {
    let cursor;
    do {
      const page = await this.list({ limit, cursor, q, signal });
      yield* page.data;
      cursor = page.next_cursor;
    } while (cursor);
    return void 0;
  }
};
var ConversationHandle = class extends ConversationCalls {
  constructor(transport, id, created) {
    super(transport, id);
    this.created = created;
  }
  created;
  get({ signal } = {}) {
    return this.transport.json("GET", this.path, { signal });
  }
  rename(title, options2) {
    return this.update({ title }, options2);
  }
  /**
   * Submits a turn. When it resolves, the server has stored the turn and will end it, whatever happens. Sent again
   * under one idempotency key until there is an answer or the retries are used up.
   */
  async send(input, options2 = {}) {
    const body = submission(input, options2);
    const key = options2.idempotencyKey ?? randomId();
    const turn = await this.transport.json("POST", `${this.path}/turns`, { body, key, signal: options2.signal });
    return new TurnHandle(this.transport, turn.id, turn);
  }
  /** A turn of this conversation. Nothing is sent yet. */
  turn(id) {
    return new TurnHandle(this.transport, id);
  }
  /** The conversation's events, over all turns, until it is erased. Without `after`, from now on. */
  events(options2 = {}) {
    const start2 = async (signal) => (await this.get({ signal })).last_seq;
    return super.events({ ...options2, start: start2 });
  }
  /** A ticket for `EventSource`; see `streamUrl`. */
  ticket({ signal } = {}) {
    return this.transport.json("POST", "/v1/stream-tickets", { body: { conversation_id: this.id }, signal });
  }
  /** The address of the conversation's stream for an `EventSource`, with a new ticket: open it within 60 s. */
  async streamUrl({ after, signal } = {}) {
    const { ticket } = await this.ticket({ signal });
    return this.transport.url(`${this.path}/events${query({ after, ticket })}`);
  }
};
var TurnHandle = class extends TurnCalls {
  constructor(transport, id, accepted) {
    super(transport, id);
    this.accepted = accepted;
  }
  accepted;
  get({ signal } = {}) {
    return this.transport.json("GET", this.path, { signal });
  }
  /** The turn's events from its first one, until its end. */
  events(options2 = {}) {
    return follow(this.transport, `${this.path}/events`, options2, isTerminal);
  }
  /** Waits for the turn's end and returns it. */
  async done({ signal } = {}) {
    for await (const _ of this.events({ signal })) ;
    return this.get({ signal });
  }
  /** Waits for the answer. Throws `TurnFailedError` if there is none. */
  async text(options2 = {}) {
    const { status, error, output } = await this.done(options2);
    if (status === "completed") return output?.text ?? "";
    const code = error?.code ?? status;
    throw new TurnFailedError({ code, title: `The turn ${status}`, detail: error?.message });
  }
  /**
   * Submits a turn in place of this one, which must be the conversation's last and have ended: an edited prompt, or the
   * same again for another answer.
   */
  async replace(input, options2 = {}) {
    const { conversation_id } = this.accepted ?? await this.get({ signal: options2.signal });
    return new ConversationHandle(this.transport, conversation_id).send(input, { ...options2, replaces: this.id });
  }
  /** The feedback that this user gave last; null if there is none. */
  async givenFeedback({ signal } = {}) {
    try {
      return await this.transport.json("GET", `${this.path}/feedback`, { signal });
    } catch (error) {
      if (error instanceof NotFoundError) return null;
      throw error;
    }
  }
};
function submission(input, options2 = {}) {
  const { whenBusy, metadata, responseSchema, replaces, clientTools } = options2;
  const tools = { client_tools: clientTools };
  return { input, when_busy: whenBusy, metadata, response_schema: responseSchema, replaces, ...tools };
}

// packages/client/src/state.ts
var emptyState = {
  turns: [],
  cursor: null,
  pending: [],
  position: null,
  isErased: false,
  title: null
};
var isEnded = (turn) => turn.status === "completed" || turn.status === "failed" || turn.status === "cancelled";
var wordsOf = (content) => typeof content === "string" ? content : content.flatMap((part2) => part2.type === "text" ? [part2.text] : []).join("\n");
function addPage(state, page) {
  const groups = /* @__PURE__ */ new Map();
  const messages = [...page.data, ...state.pending].sort((a, b) => a.seq - b.seq);
  for (const message2 of messages) {
    const group = groups.get(message2.turn_id);
    if (group) group.push(message2);
    else groups.set(message2.turn_id, [message2]);
  }
  const known = new Set(state.turns.map((turn) => turn.id));
  const added = [];
  const pending = [];
  for (const [id, group] of groups) {
    const view = page.turns.find((turn) => turn.id === id);
    if (group[0]?.role !== "user" || !view) pending.push(...group);
    else if (!known.has(id)) added.push(fromMessages(group, view));
  }
  return {
    ...state,
    turns: [...added, ...state.turns].sort((a, b) => a.seq - b.seq),
    cursor: page.next_cursor,
    pending,
    position: state.position ?? String(page.last_seq)
  };
}
function fromMessages(messages, view) {
  const calls = view.tool_calls.map(fromCall);
  const items = [];
  for (const { role, id: id2, content, citations } of messages) {
    if (role === "assistant") {
      items.push({ kind: "text", id: id2, text: wordsOf(content), isOpen: false, citations: citations ?? [] });
    } else if (role === "tool" && calls.length) items.push(calls.shift());
  }
  const first = messages[0];
  for (const { stage, rule, action } of view.guardrails) {
    const data = { seq: first.seq, turn_id: view.id, at: first.created_at, stage, rule, action };
    items.push(notice({ type: "guardrail.triggered", position: "", ...data }));
  }
  const { id, metadata, status, attempt, waiting, error, feedback } = view;
  return {
    id,
    seq: first.seq,
    input: first.content,
    metadata,
    status,
    attempt,
    items: [...items, ...calls],
    waiting,
    error,
    usage: isEnded(view) ? view.usage : null,
    feedback,
    firstTokenMs: view.first_token_ms,
    finishedAt: view.finished_at,
    replacedBy: view.replaced_by ?? null
  };
}
function fromCall(call2) {
  const { id, name, arguments: given, status, result, error, expires_at: expiresAt } = call2;
  return { kind: "tool", id, name, arguments: given, status, result, error, expiresAt, origins: originsOf(call2) };
}
var originsOf = (told) => told.origins;
function notice(event) {
  const id = event.type === "guardrail.triggered" ? `${event.rule}:${event.stage}` : String(event.seq);
  return { kind: "notice", id: `${event.type}:${id}`, event };
}
function apply(state, event) {
  const next = { ...state, position: event.position || state.position };
  if (event.type === "conversation.erased") return { ...emptyState, position: next.position, isErased: true };
  if (event.type === "conversation.titled") return { ...next, title: event.title };
  const id = event.turn_id ?? state.turns.at(-1)?.id;
  const at = state.turns.findLastIndex((turn2) => turn2.id === id);
  const turn = state.turns[at];
  if (!turn) {
    if (event.type !== "turn.queued") return next;
    return { ...next, turns: [...replaced(state.turns, event), queued(event)] };
  }
  const changed = applyToTurn(turn, event);
  if (changed === turn) return next;
  const turns = state.turns.slice();
  turns[at] = changed;
  return { ...next, turns };
}
function replaced(turns, { turn_id, replaces }) {
  const mark2 = (turn) => turn.id === replaces ? { ...turn, replacedBy: turn_id } : turn;
  return replaces ? turns.map(mark2) : turns;
}
function queued({ turn_id, seq, input, metadata }) {
  return { ...blank, id: turn_id, seq, input, metadata };
}
var blank = {
  status: "queued",
  attempt: 0,
  items: [],
  waiting: null,
  error: null,
  usage: null,
  feedback: null,
  firstTokenMs: null,
  finishedAt: null,
  replacedBy: null
};
function applyToTurn(turn, event) {
  switch (event.type) {
    case "turn.started":
      return isEnded(turn) ? turn : { ...turn, status: "running", attempt: event.attempt, waiting: null };
    case "turn.waiting":
      return isEnded(turn) ? turn : { ...turn, waiting: { reason: event.reason, until: event.until } };
    case "message.delta": {
      const open2 = itemOf(turn, "text", event.message_id);
      if (open2 && !open2.isOpen) return turn;
      const text = open2 ? { ...open2, text: open2.text + event.text } : { kind: "text", id: event.message_id, text: event.text, isOpen: true, citations: [] };
      return put({ ...turn, waiting: null }, text);
    }
    case "message.completed":
      return completed(turn, event);
    case "message.reset": {
      const open2 = itemOf(turn, "text", event.message_id);
      if (open2 && !open2.isOpen) return turn;
      return put({ ...turn, waiting: null, items: turn.items.filter((item) => item !== open2) }, notice(event));
    }
    case "approval.requested":
      return call(turn, event.call_id, "awaiting_approval", {
        arguments: event.arguments,
        expiresAt: event.expires_at,
        origins: originsOf(event)
      });
    case "approval.decided":
      return call(turn, event.call_id, event.decision === "approved" ? "running" : "rejected", {
        decision: event.decision,
        decidedBy: event.by,
        arguments: event.arguments ?? itemOf(turn, "tool", event.call_id)?.arguments
      });
    case "client_tool.requested":
      return call(turn, event.call_id, "proposed", { arguments: event.arguments, expiresAt: event.expires_at });
    case "tool.called":
      return call(turn, event.call_id, "running", { arguments: event.arguments, expiresAt: event.expires_at });
    case "tool.finished":
      return finished(turn, event);
    case "guardrail.triggered":
    case "model.fallback":
    case "memory.compressed":
      return itemOf(turn, "notice", notice(event).id) ? turn : put(turn, notice(event));
    case "turn.completed":
    case "turn.failed":
    case "turn.cancelled":
      return ended(turn, event);
    default:
      return turn;
  }
}
function completed(turn, event) {
  const { message_id: id, text, citations, finish } = event;
  let next = put({ ...turn, waiting: null }, { kind: "text", id, text, isOpen: false, citations, finish });
  for (const { id: id2, name, arguments: given } of event.tool_calls) {
    if (itemOf(next, "tool", id2)) continue;
    next = put(next, { kind: "tool", id: id2, name, arguments: given, status: "proposed" });
  }
  return next;
}
var RANK = { proposed: 0, awaiting_approval: 1, running: 2 };
var rank = (status) => RANK[status] ?? 3;
function call(turn, id, status, more) {
  const item = itemOf(turn, "tool", id);
  if (!item || rank(status) < rank(item.status) || rank(item.status) === 3) return turn;
  return withStatus(put(turn, { ...item, status, ...more }));
}
function finished(turn, event) {
  const item = itemOf(turn, "tool", event.call_id);
  if (!item) return turn;
  const { status, result, error } = event;
  return withStatus(put(turn, { ...item, status, result, error, expiresAt: void 0 }));
}
function withStatus(turn) {
  if (isEnded(turn)) return turn;
  const awaits = turn.items.some((item) => item.kind === "tool" && item.status === "awaiting_approval");
  const status = awaits ? "awaiting_approval" : turn.status === "awaiting_approval" ? "running" : turn.status;
  return status === turn.status ? turn : { ...turn, status };
}
function ended(turn, event) {
  const items = turn.items.map((item) => item.kind === "text" && item.isOpen ? { ...item, isOpen: false } : item);
  if (isEnded(turn)) return { ...turn, items };
  const next = { ...turn, items, waiting: null, finishedAt: event.at };
  if (event.type === "turn.failed") {
    return { ...next, status: "failed", error: { code: event.code, message: event.message } };
  }
  if (event.type === "turn.cancelled") return { ...next, status: "cancelled", usage: event.usage };
  return { ...next, status: "completed", usage: event.usage, firstTokenMs: event.first_token_ms ?? next.firstTokenMs };
}
function itemOf(turn, kind, id) {
  const isIt = (item) => item.kind === kind && item.id === id;
  return turn.items.findLast(isIt);
}
function put(turn, item) {
  const at = turn.items.findLastIndex((other) => other.kind === item.kind && other.id === item.id);
  const items = turn.items.slice();
  if (at < 0) items.push(item);
  else items[at] = item;
  return { ...turn, items };
}

// packages/client/src/view.ts
var openView = (conversation, options2) => new ConversationView(conversation, options2);
var ConversationView = class {
  #conversation;
  #pageSize;
  #gather;
  #silence;
  #listeners = /* @__PURE__ */ new Set();
  #closed = new AbortController();
  #snapshot = { ...emptyState, status: "connecting", error: null };
  #timer;
  /** What listeners were told last. */
  #shown = this.#snapshot;
  #earlier;
  /** Counts the times that all was read anew. */
  #generation = 0;
  constructor(conversation, { pageSize = 50, gather = 16, silence } = {}) {
    this.#conversation = conversation;
    this.#pageSize = pageSize;
    this.#gather = gather;
    this.#silence = silence;
    void this.#run();
  }
  /** The present value. The same object until listeners are called. */
  getSnapshot = () => this.#shown;
  /** Calls back after changes. Returns a function that ends this. */
  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };
  /** Reads the page before what is known, and shows it. Does nothing at the conversation's beginning. */
  loadEarlier() {
    this.#earlier ??= this.#readEarlier().finally(() => this.#earlier = void 0);
    return this.#earlier;
  }
  /** Ends the stream. */
  close() {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort(new Error("the view was closed"));
    if (this.#snapshot.status !== "failed") this.#set({ status: "closed", error: null });
    this.#show();
  }
  async #run() {
    const { signal } = this.#closed;
    for (let failures = 0; !signal.aborted; ) {
      try {
        await this.#readNewest(signal);
        failures = 0;
        const after = this.#snapshot.position ?? void 0;
        const onStatus = (status, error) => this.#set({ status, error: error ?? null });
        for await (const event of this.#conversation.events({ after, signal, onStatus, silence: this.#silence })) {
          this.#set(apply(this.#snapshot, event));
        }
        this.#set({ status: "closed", error: null });
        return;
      } catch (error) {
        if (signal.aborted) return;
        const problem = error instanceof CopilotdError ? error : void 0;
        const isPassing = isTransient(error) || error instanceof NotResumableError;
        this.#set({ status: isPassing ? "reconnecting" : "failed", error: problem ?? null });
        if (!isPassing) {
          if (!problem) reportError(error);
          return;
        }
        await backOff(failures++, this.#conversation.backoff, problem?.retryAfter, signal).catch(() => {
        });
      }
    }
  }
  /** Reads the newest page; and on until at least one turn is whole. */
  async #readNewest(signal) {
    let state = emptyState;
    do
      state = addPage(state, await this.#page(state, signal));
    while (!state.turns.length && state.cursor);
    this.#generation++;
    this.#set({ ...state, title: this.#snapshot.title });
  }
  async #readEarlier() {
    const { signal } = this.#closed;
    const generation = this.#generation;
    let state = this.#snapshot;
    const known = state.turns.length;
    const pages = [];
    while (state.cursor && state.turns.length === known) {
      const page = await this.#page(state, signal);
      pages.push(page);
      state = addPage(state, page);
    }
    if (generation === this.#generation) this.#set(pages.reduce(addPage, this.#snapshot));
    this.#show();
  }
  #page({ cursor }, signal) {
    return this.#conversation.messages({ order: "desc", limit: this.#pageSize, cursor, signal });
  }
  #set(change) {
    this.#snapshot = { ...this.#snapshot, ...change };
    if (this.#gather <= 0) this.#show();
    else this.#timer ??= setTimeout(() => this.#show(), this.#gather);
  }
  #show() {
    clearTimeout(this.#timer);
    this.#timer = void 0;
    this.#shown = this.#snapshot;
    for (const listener of [...this.#listeners]) listener();
  }
};

// packages/demo/src/dom.js
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === void 0 || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== void 0));
  return node;
}
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function keyed(parent, items, key, create, update) {
  const old = new Map([...parent.children].map((node) => [node.__key, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let node = old.get(id);
    if (node) old.delete(id);
    else {
      node = create(item);
      node.__key = id;
    }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    update?.(node, item);
  }
  for (const node of old.values()) node.remove();
}

// packages/demo/src/time.js
function pause2(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
function clock(time, now = /* @__PURE__ */ new Date()) {
  const date = new Date(time);
  const today = date.toDateString() === now.toDateString();
  const hours = { hour: "2-digit", minute: "2-digit" };
  return date.toLocaleString([], today ? hours : { ...hours, month: "short", day: "numeric" });
}
function left(until, now = Date.now()) {
  const seconds = Math.max(0, Math.round((new Date(until).getTime() - now) / 1e3));
  const pad = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return (hours ? `${hours}:${pad(minutes)}` : `${minutes}`) + `:${pad(seconds % 60)}`;
}

// packages/demo/src/activity/conversations.js
var PAGE = 30;
var MOST = 600;
var Conversations2 = class {
  #changed;
  #copilotd = null;
  #data = [];
  #cursor = null;
  #isExtended = false;
  /** Ids that are deleted; the server's list may be behind by a second. */
  #deleted = /* @__PURE__ */ new Set();
  #timer;
  /** For whom the list is being read. */
  #reading = null;
  /** `changed` is called after every change. */
  constructor(changed) {
    this.#changed = changed;
  }
  /** Begins anew as another user. */
  of(copilotd) {
    this.#copilotd = copilotd;
    this.#data = [];
    this.#cursor = null;
    this.#isExtended = false;
    this.#deleted.clear();
    this.#changed();
    this.refresh();
  }
  all() {
    return this.#data.filter(({ id }) => !this.#deleted.has(id));
  }
  /** The one that changed last. */
  newest() {
    return this.all().reduce((best, next) => !best || next.updated_at > best.updated_at ? next : best, void 0);
  }
  get hasMore() {
    return Boolean(this.#cursor) && this.#data.length < MOST;
  }
  /** Reads the newest ones, after a delay. */
  refresh(delay = 0) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      const copilotd = this.#copilotd;
      if (this.#reading === copilotd) return;
      this.#reading = copilotd;
      try {
        const page = await copilotd.conversations.list({ limit: PAGE });
        if (copilotd !== this.#copilotd) return;
        const ids = new Set(page.data.map(({ id }) => id));
        const oldest = page.data.at(-1)?.created_at;
        const older = this.#isExtended ? this.#data.filter(({ id, created_at: at }) => !ids.has(id) && at <= oldest) : [];
        this.#data = [...page.data, ...older];
        if (!this.#isExtended) this.#cursor = page.next_cursor;
        this.#changed();
      } catch {
      } finally {
        if (this.#reading === copilotd) this.#reading = null;
      }
    }, delay);
  }
  /** Reads the page behind those that are shown. */
  async older() {
    const copilotd = this.#copilotd;
    const page = await copilotd.conversations.list({ limit: PAGE, cursor: this.#cursor });
    if (copilotd !== this.#copilotd) return;
    const known = new Set(this.#data.map(({ id }) => id));
    this.#data.push(...page.data.filter(({ id }) => !known.has(id)));
    this.#cursor = page.next_cursor;
    this.#isExtended = true;
    this.#changed();
  }
  /** Leaves out a conversation that is gone. */
  forget(id) {
    if (this.#deleted.has(id)) return;
    this.#deleted.add(id);
    this.#changed();
  }
};

// packages/demo/src/activity/words.js
var STATUS = {
  queued: "queued",
  running: "running",
  awaiting_approval: "waits for an approval",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled"
};
function toolName(name) {
  const [system, ...rest] = name.split("_");
  const title = system.replace(/^./, (first) => first.toUpperCase());
  return rest.length ? `${title}: ${rest.join(" ")}` : title;
}
function statusOf(turn, position = 0) {
  if (turn.status === "queued") return position ? `queued, number ${position} in line` : "queued";
  const said = STATUS[turn.status] ?? turn.status;
  return turn.attempt > 1 ? `${said}, attempt ${turn.attempt}` : said;
}
var WAITS = {
  provider_rate_limit: "the provider limits the rate; goes on in",
  provider_unavailable: "the provider does not answer; next try in",
  limit: "a limit is reached; goes on in"
};
var waitOf = ({ reason }) => WAITS[reason] ?? "waits; goes on in";
var RESETS = {
  recovered: "the server was restarted in mid-answer; the answer begins again",
  response_schema: "the answer did not fit its schema; the model was asked again",
  guardrail: "a guardrail took the answer back",
  stopped: "the answer was stopped"
};
var ACTIONS = {
  allow: "noted it",
  redact: "took something out",
  block: "stopped it",
  repair: "sent it back to the model"
};
function noticeOf({ event }) {
  switch (event.type) {
    case "message.reset":
      return RESETS[event.reason] ?? "the answer was interrupted and begins again";
    case "model.fallback":
      return `${event.from} did not answer in time; ${event.to} took over`;
    case "memory.compressed":
      return `a summary made ${count(event.tokens_after)} tokens of ${count(event.tokens_before)}, in earlier messages`;
    case "guardrail.triggered":
      return `the guardrail “${event.rule.replaceAll("_", " ")}” ${ACTIONS[event.action] ?? "was applied"}`;
    default:
      return event.type;
  }
}
function callOf(call2) {
  const said = call2.status.replaceAll("_", " ");
  if (!call2.decision) return said;
  if (call2.decision === "expired") return `${said}; the approval expired`;
  return `${said}; ${call2.decision} by ${call2.decidedBy}`;
}
function figures({ usage, firstTokenMs, finishedAt }) {
  if (!usage?.prompt_tokens) return [];
  const cached = usage.cached_tokens ? ` (${count(usage.cached_tokens)} cached)` : "";
  return [
    ["tokens in", `${count(usage.prompt_tokens)}${cached}`],
    ["tokens out", count(usage.completion_tokens)],
    ["cost", usage.cost_usd ? `$${usage.cost_usd.toFixed(4)}` : null],
    ["model", usage.models.join(", ") || null],
    ["first word", typeof firstTokenMs === "number" ? `${(firstTokenMs / 1e3).toFixed(1)} s` : null],
    ["finished", finishedAt ? clock(finishedAt) : null]
  ].filter(([, value]) => value !== null);
}
var count = (number) => number.toLocaleString("en");
function shown2(value, limit = 2e4) {
  if (value === void 0 || value === null) return "";
  let text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  if (typeof value === "string") {
    try {
      text = JSON.stringify(JSON.parse(value), null, 2);
    } catch {
    }
  }
  return text.length > limit ? `${text.slice(0, limit)}
… (${count(text.length - limit)} more characters)` : text;
}

// packages/demo/src/activity/turns.js
function drawTurns(parent, turns, cancel) {
  const queued2 = turns.filter(({ status }) => status === "queued");
  keyed(
    parent,
    turns.toReversed(),
    ({ id }) => id,
    (turn) => createTurn(turn, cancel),
    (node, turn) => updateTurn(node, turn, queued2.indexOf(turn) + 1)
  );
}
function createTurn({ id, input }, cancel) {
  const node = el("li", { class: "turn", data: { id } });
  node.status = el("span", { class: "badge" });
  node.wait = el("span", { class: "timer" });
  node.stop = el("button", { type: "button", class: "quiet", onclick: () => cancel(id) });
  node.items = el("ol", { class: "items" });
  node.figures = el("dl", { class: "figures" });
  node.error = el("p", { class: "problem" });
  node.append(
    el("div", { class: "line" }, node.status, el("span", { class: "input", text: wordsOf(input) })),
    node.items,
    node.error,
    node.figures
  );
  node.firstElementChild.append(node.wait, node.stop);
  return node;
}
function updateTurn(node, turn, position) {
  if (node.__turn === turn && node.__position === position) return;
  Object.assign(node, { __turn: turn, __position: position });
  node.dataset.status = turn.status;
  node.status.dataset.status = turn.status;
  setText(node.status, statusOf(turn, position));
  node.wait.hidden = !turn.waiting;
  if (turn.waiting) {
    Object.assign(node.wait.dataset, { until: turn.waiting.until, before: `${waitOf(turn.waiting)} ` });
    setText(node.wait, `${waitOf(turn.waiting)} ${left(turn.waiting.until)}`);
  } else delete node.wait.dataset.until;
  node.stop.hidden = isEnded(turn);
  setText(node.stop, turn.status === "queued" ? "Remove from the queue" : "Stop");
  const items = turn.items.filter((item) => item.kind !== "text" || item.text || item.isOpen);
  keyed(node.items, items, (item) => `${item.kind}/${item.id}`, createItem, updateItem);
  setText(node.error, turn.error ? `${turn.error.code}: ${turn.error.message}` : "");
  const said = figures(turn);
  node.figures.replaceChildren(
    ...said.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value })))
  );
}
function createItem(item) {
  if (item.kind === "notice") {
    return el("li", { class: "notice", data: { type: item.event.type }, text: noticeOf(item) });
  }
  const node = el("li", { class: item.kind === "tool" ? "call" : "text", data: { name: item.name ?? "" } });
  node.summary = el("summary");
  node.body = el("div", { class: "body" });
  node.append(el("details", {}, node.summary, node.body));
  return node;
}
function updateItem(node, item) {
  if (node.__item === item || item.kind === "notice") return;
  node.__item = item;
  if (item.kind === "text") {
    const cited = item.citations.length ? `, ${item.citations.length} cited` : "";
    node.summary.replaceChildren(
      el("span", { class: "name", text: item.isOpen ? "text, streaming" : "text" }),
      el("span", { class: "state", text: `${item.text.length.toLocaleString("en")} characters${cited}` })
    );
    node.body.replaceChildren(
      el("pre", { text: shown2(item.text) }),
      ...item.citations.map(({ title, quote }) => el("p", { class: "source", text: `${title}: “${quote}”` }))
    );
    return;
  }
  node.dataset.status = item.status;
  node.summary.replaceChildren(
    el("span", { class: "name", text: toolName(item.name) }),
    el("span", { class: "badge", data: { status: item.status }, text: callOf(item) })
  );
  const parts2 = [["arguments", shown2(item.arguments)], ["result", shown2(item.result)], ["error", shown2(item.error)]];
  node.body.replaceChildren(
    ...parts2.filter(([, text]) => text).flatMap(([name, text]) => [el("h4", { text: name }), el("pre", { text })])
  );
}

// packages/demo/src/activity/activity.js
var STREAM = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  closed: "",
  failed: "Not reachable"
};
var NOTHING = { turns: [], status: "closed", cursor: null, isErased: false, error: null };
var Activity = class {
  #parts;
  #ask;
  #copilotd = null;
  #list;
  #view = null;
  /** Id of the conversation that is shown. */
  #shown = null;
  /** Whether the person chose it, here or by what was said in the chat. Else the one that changed last is shown. */
  #isChosen = false;
  /**
   * `ask` sends a message through the chat.
   * @param {Record<string, any> & { ask: (text: string) => void }} parts
   */
  constructor({ ask: ask2, ...parts2 }) {
    this.#parts = parts2;
    this.#ask = ask2;
    this.#list = new Conversations2(() => this.#listed());
    parts2.more.onclick = () => this.#attempt(() => this.#list.older());
    parts2.earlier.onclick = () => this.#attempt(() => this.#view.loadEarlier());
    parts2.meanwhile.onsubmit = (event) => {
      event.preventDefault();
      this.#sendMeanwhile();
    };
  }
  /** Begins anew as another user. */
  signIn(copilotd) {
    this.#copilotd = copilotd;
    this.#isChosen = false;
    this.#show(null);
    this.#list.of(copilotd);
  }
  /** Something happened in a conversation of the chat: it is shown, and the list is read again soon. */
  heard(conversation) {
    if (conversation) {
      this.#isChosen = true;
      this.#show(conversation);
    }
    this.#list.refresh(300);
  }
  /** Sends a message: through the chat, or to the conversation itself while it answers and the chat takes none. */
  say(text) {
    if (!this.#isBusy()) return this.#ask(text);
    this.#parts.input.value = text;
    this.#sendMeanwhile();
  }
  async run(pause3) {
    for (; ; ) {
      await pause3(2e3);
      if (!document.hidden) this.#list.refresh();
    }
  }
  #isBusy() {
    return Boolean(this.#view?.getSnapshot().turns.some((turn) => !isEnded(turn)));
  }
  #listed() {
    const newest = this.#list.newest();
    if (!this.#isChosen && newest) this.#show(newest.id);
    this.#drawList();
  }
  #show(id) {
    if (id === this.#shown && id === null === (this.#view === null)) return;
    this.#view?.close();
    this.#shown = id;
    this.#view = id === null ? null : openView(this.#copilotd.conversation(id));
    const view = this.#view;
    view?.subscribe(() => view === this.#view && this.#drawTurns());
    this.#drawTurns();
    this.#drawList();
  }
  #drawTurns() {
    const { turns, status, cursor, isErased: isErased2, error } = this.#view?.getSnapshot() ?? NOTHING;
    drawTurns(this.#parts.turns, turns, (id) => this.#attempt(() => this.#copilotd.turn(id).cancel()));
    this.#parts.connection.dataset.state = status;
    setText(this.#parts.connection, STREAM[status] ?? "");
    this.#parts.empty.hidden = turns.length > 0;
    this.#parts.earlier.hidden = !cursor;
    const busy = turns.some((turn) => !isEnded(turn));
    if (this.#parts.meanwhile.hidden === busy) {
      this.#parts.meanwhile.hidden = !busy;
      this.#parts.whenBusy.value = "enqueue";
    }
    const last = turns.at(-1);
    const said = last && `${last.status.replaceAll("_", " ")}: ${wordsOf(last.input).slice(0, 80)}`;
    setText(this.#parts.summary, said ?? "");
    if (isErased2 || error?.code === "not_found") this.#gone();
  }
  /** The conversation was deleted, in the chat or elsewhere. */
  #gone() {
    const id = this.#shown;
    this.#isChosen = false;
    this.#show(null);
    this.#list.forget(id);
  }
  #drawList() {
    this.#parts.more.hidden = !this.#list.hasMore;
    keyed(
      this.#parts.conversations,
      this.#list.all(),
      ({ id }) => id,
      (conversation) => this.#createEntry(conversation.id),
      (node, conversation) => this.#updateEntry(node, conversation)
    );
  }
  #createEntry(id) {
    const node = el("li", { class: "conversation" });
    const choose = () => {
      this.#isChosen = true;
      this.#show(id);
    };
    node.name = el("span", { class: "name" });
    node.meta = el("span", { class: "meta" });
    node.choose = el("button", { type: "button", class: "choose", onclick: choose }, node.name, node.meta);
    node.append(node.choose);
    return node;
  }
  #updateEntry(node, { id, title, updated_at: at, turn_count: turns }) {
    node.choose.setAttribute("aria-pressed", String(id === this.#shown));
    setText(node.name, title ?? "Untitled");
    setText(node.meta, `${clock(at)} · ${turns === 1 ? "1 turn" : `${turns} turns`}`);
  }
  async #sendMeanwhile() {
    const { input, whenBusy } = this.#parts;
    const text = input.value;
    if (!text.trim() || !this.#shown) return;
    await this.#attempt(async () => {
      const conversation = this.#copilotd.conversation(this.#shown);
      await conversation.send(text, { whenBusy: whenBusy.value });
      if (input.value === text) input.value = "";
    });
  }
  /** Does something that may be refused; says why. */
  async #attempt(action) {
    setText(this.#parts.problem, "");
    try {
      await action();
    } catch (error) {
      setText(this.#parts.problem, error.detail ?? error.title ?? error.message);
    }
  }
};

// packages/demo/src/chat.js
var GREETING = "Hello! I read your tickets, look things up in the handbook, and tell the team in Slack.";
var STARTERS = [
  "Summarise the unread tickets and alert #support",
  "How long does a refund take?",
  "Create a ticket about a broken export",
  "Show me ticket 103"
];
var TRIALS = [
  { label: "A slow answer", text: "[[sim tokens=200 pace_ms=60]] Tell me something long" },
  { label: "A provider that breaks off once", text: "[[sim tokens=80 pace_ms=30 cut_after=180 fail_times=1]] Try this" },
  { label: "A provider that is down", text: "[[sim status=500]] Are you there?" },
  {
    label: "Wrong tool arguments",
    text: '[[sim tool=zendesk_get_ticket args={"ticket_id": "oops"} text="I need the number of a ticket to open it. Which one do you mean?"]] Show me ticket “oops”'
  }
];
var ALWAYS = [{ label: "A tool that fails", text: "Show me ticket 99999" }];
var opening = ({ number, customer }, isSimulated) => {
  const call2 = `[[sim tool=open_invoice args=${JSON.stringify({ number })} text="I opened the invoice of ${customer}."]] `;
  return { label: "A function of this page", text: `${isSimulated ? call2 : ""}Open the invoice ${number}` };
};
var toolsOf = (openInvoice) => [
  {
    name: "open_invoice",
    description: "Opens an invoice on the billing page that the user looks at. Call it when the user wants to see one.",
    parameters: {
      type: "object",
      properties: { number: { type: "string", description: "The invoice's number, such as 2026-1044" } },
      required: ["number"],
      additionalProperties: false
    },
    run: ({ number }) => openInvoice(number)
  }
];
function mountChat({ tenant, token, isOpen, heard, openInvoice }) {
  const chat2 = document.createElement("copilotd-chat");
  chat2.setAttribute("copilot", "support");
  chat2.token = token;
  chat2.greeting = GREETING;
  chat2.starters = STARTERS;
  chat2.metadata = { page: "billing" };
  chat2.tools = toolsOf(openInvoice);
  chat2.messages = { "tool:open_invoice": "Open an invoice" };
  chat2.links = [`https://help.${tenant}.example`];
  for (const name of ["copilotd-message", "copilotd-approval"]) chat2.addEventListener(name, heard);
  if (isOpen) chat2.setAttribute("open", "");
  document.body.append(chat2);
  return chat2;
}

// packages/demo/src/product/data.js
var invoice = (number, customer, plan, amount, due, status) => ({ number, customer, plan, amount, due, status });
var BOOKS = {
  acme: {
    company: "Acme Workspaces",
    currency: "EUR",
    invoices: [
      invoice("2026-1046", "Lumen Bakery", "Team, 12 seats", 348, "2026-12-14", "open"),
      invoice("2026-1045", "Orbit Cycles", "Business, 40 seats", 1960, "2026-12-10", "open"),
      invoice("2026-1044", "Saltmarsh Hotels", "Business, 85 seats", 4165, "2026-11-21", "overdue"),
      invoice("2026-1043", "Petal Post", "Team, 6 seats", 174, "2026-11-18", "paid"),
      invoice("2026-1042", "Ada Customer", "Starter, charged twice", 49, "2026-11-12", "disputed"),
      invoice("2026-1041", "Fjord & Finch", "Team, 20 seats", 580, "2026-11-05", "paid")
    ]
  },
  globex: {
    company: "Globex Freight",
    currency: "USD",
    invoices: [
      invoice("G-20318", "Harbour Nine", "Fleet, 14 trucks", 6720, "2026-12-18", "open"),
      invoice("G-20317", "Cobalt Foods", "Cold chain, 9 routes", 11340, "2026-12-02", "open"),
      invoice("G-20316", "Birch & Sons", "Parcel, 1,900 labels", 2185, "2026-11-16", "overdue"),
      invoice("G-20315", "Meridian Labs", "Courier, 62 trips", 3038, "2026-11-09", "paid")
    ]
  }
};
function totals(invoices) {
  const sum = (statuses) => invoices.filter(({ status }) => statuses.includes(status)).reduce((total, { amount }) => total + amount, 0);
  return { outstanding: sum(["open", "overdue", "disputed"]), overdue: sum(["overdue"]), paid: sum(["paid"]) };
}

// packages/demo/src/product/product.js
var Product = class {
  #parts;
  #ask;
  #tenant = null;
  #money;
  /** `ask` sends a question to the copilot. */
  constructor({ ask: ask2, ...parts2 }) {
    this.#parts = parts2;
    this.#ask = ask2;
  }
  /** Shows a tenant's books; a tenant without any is shown the first one's. */
  show(tenant) {
    if (tenant === this.#tenant) return;
    this.#tenant = tenant;
    const { company, currency, invoices } = this.#books;
    const money = (amount, digits = 2) => {
      const fraction = { minimumFractionDigits: digits, maximumFractionDigits: digits };
      return amount.toLocaleString("en", { style: "currency", currency, ...fraction });
    };
    this.#money = money;
    this.#close();
    const { outstanding, overdue, paid } = totals(invoices);
    setText(this.#parts.company, company);
    setText(this.#parts.outstanding, money(outstanding, 0));
    setText(this.#parts.overdue, money(overdue, 0));
    setText(this.#parts.paid, money(paid, 0));
    setText(this.#parts.tickets, "…");
    keyed(
      this.#parts.rows,
      invoices,
      ({ number }) => `${tenant}/${number}`,
      (invoice2) => this.#row(invoice2, money)
    );
  }
  /** Shows how many tickets wait for an answer. */
  tickets(tickets) {
    setText(this.#parts.tickets, String(tickets.filter(({ status }) => status === "new" || status === "open").length));
  }
  /** Opens an invoice, and returns what it shows. Throws if there is none of that number. */
  open(number) {
    const invoice2 = this.#books.invoices.find((invoice3) => invoice3.number === number);
    if (!invoice2) throw new Error(`there is no invoice ${number} on this page`);
    const { customer, plan, amount, due, status } = invoice2;
    const lines = { Customer: customer, Plan: plan, Amount: this.#money(amount), Due: dateOf(due), Status: status };
    this.#parts.invoice.replaceChildren(
      el("h3", { text: `Invoice ${number}` }),
      el("button", { type: "button", class: "small", text: "Close", onclick: () => this.#close() }),
      el(
        "dl",
        {},
        ...Object.entries(lines).map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", { text })))
      )
    );
    this.#parts.invoice.hidden = false;
    this.#mark(number);
    this.#parts.invoice.scrollIntoView({ block: "nearest" });
    return invoice2;
  }
  #close() {
    this.#parts.invoice.hidden = true;
    this.#mark(null);
  }
  /** Marks the row of the invoice that is open. */
  #mark(number) {
    for (const row2 of this.#parts.rows.children) {
      if (row2.dataset.number === number) row2.setAttribute("aria-current", "true");
      else row2.removeAttribute("aria-current");
    }
  }
  /** The invoice that the page offers to open. */
  get example() {
    return this.#books.invoices.find(({ status }) => status === "overdue");
  }
  get #books() {
    return BOOKS[this.#tenant] ?? Object.values(BOOKS)[0];
  }
  #row({ number, customer, plan, amount, due, status }, money) {
    const onclick = () => this.#ask(`Is there a ticket about invoice ${number}?`);
    const label = `Ask the copilot about ${number}`;
    return el(
      "tr",
      { data: { number } },
      el("th", { scope: "row", text: number }),
      el("td", {}, el("span", { class: "customer", text: customer }), el("span", { class: "plan", text: plan })),
      el("td", {}, el("span", { class: "badge", data: { status }, text: status })),
      el("td", { class: "due", text: dateOf(due) }),
      el("td", { class: "amount", text: money(amount) }),
      el(
        "td",
        { class: "do" },
        el("button", { type: "button", class: "small", "aria-label": label, text: "Ask", onclick })
      )
    );
  }
};
function dateOf(day) {
  const form = { day: "numeric", month: "short", year: "numeric" };
  return (/* @__PURE__ */ new Date(`${day}T00:00:00`)).toLocaleDateString("en", form);
}

// packages/demo/src/vendors/feed.js
var PERIOD = 1e3;
var TIMEOUT = 5e3;
var Feed = class {
  #system;
  #news;
  #state;
  #account = null;
  #version = 0;
  /**
   * `news(view, isFirst)` hears of each new view of the account; `state(isReachable)` whether the vendor answers.
   * @param {"zendesk" | "slack"} system
   * @param {{ news: (view: any, isFirst: boolean) => void, state: (isReachable: boolean) => void }} listeners
   */
  constructor(system, { news, state }) {
    this.#system = system;
    this.#news = news;
    this.#state = state;
  }
  /** Follows another tenant's account. */
  follow(account) {
    if (account === this.#account) return;
    this.#account = account;
    this.#version = 0;
    this.poll();
  }
  async run() {
    for (; ; ) {
      if (!document.hidden && this.#account) await this.poll();
      await pause2(PERIOD);
    }
  }
  /** Asks once. */
  async poll() {
    const [account, version] = [this.#account, this.#version];
    const isStale = () => account !== this.#account || version !== this.#version;
    try {
      const query2 = new URLSearchParams({ account, after: String(version) });
      const answer = await fetch(`demo/${this.#system}/changes?${query2}`, { signal: AbortSignal.timeout(TIMEOUT) });
      if (!answer.ok) throw new Error(`the demo answered ${answer.status}`);
      const view = await answer.json();
      if (isStale()) return;
      this.#state(true);
      if (!view.changed) return;
      this.#version = view.version;
      this.#news(view, version === 0);
    } catch {
      if (isStale()) return;
      this.#state(false);
    }
  }
};
var Changes = class {
  #known = /* @__PURE__ */ new Map();
  /** Forgets all: another account is shown. */
  clear() {
    this.#known.clear();
  }
  /** Returns the keys of items that are new or differ. At the first time, nothing is new. */
  of(items, key) {
    const isFirst = this.#known.size === 0;
    const fresh = /* @__PURE__ */ new Set();
    const known = /* @__PURE__ */ new Map();
    for (const item of items) {
      const [id, source] = [key(item), JSON.stringify(item)];
      if (!isFirst && this.#known.get(id) !== source) fresh.add(id);
      known.set(id, source);
    }
    this.#known = known;
    return fresh;
  }
};

// packages/demo/src/vendors/mrkdwn.js
var MRKDWN = new RegExp(
  [
    /<(https?:[^|>]+)(?:\|([^>]*))?>/,
    // a link
    /<[@#!][^|>]*(?:\|([^>]*))?>/,
    // someone, a channel or everyone
    /`([^`]+)`/,
    /(?<!\w)\*([^*\n]+)\*(?!\w)/,
    /(?<!\w)_([^_\n]+)_(?!\w)/
  ].map((pattern) => pattern.source).join("|"),
  "g"
);
function parts(text) {
  const plain = (part2) => part2.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  const found = [];
  let at = 0;
  for (const match of text.matchAll(MRKDWN)) {
    const [whole, target, label, mention, code, strong, emphasis] = match;
    found.push(plain(text.slice(at, match.index)));
    if (target) found.push({ kind: "link", href: plain(target), text: plain(label ?? target) });
    else if (code) found.push({ kind: "code", text: plain(code) });
    else if (strong) found.push({ kind: "strong", text: plain(strong) });
    else if (emphasis) found.push({ kind: "em", text: plain(emphasis) });
    else found.push(plain(mention ?? whole));
    at = match.index + whole.length;
  }
  found.push(plain(text.slice(at)));
  return found.filter((part2) => part2 !== "");
}
function mrkdwn(text) {
  return parts(text).map((part2) => {
    if (typeof part2 === "string") return part2;
    if (part2.kind !== "link") return el(part2.kind, { text: part2.text });
    return el("a", { href: part2.href, text: part2.text, target: "_blank", rel: "noopener noreferrer" });
  });
}

// packages/demo/src/vendors/threads.js
function threads(messages) {
  const roots = /* @__PURE__ */ new Map();
  for (const message2 of messages) {
    const root = message2.thread_ts && message2.thread_ts !== message2.ts ? roots.get(message2.thread_ts) : void 0;
    if (root) root.replies.push(message2);
    else roots.set(message2.ts, { ...message2, replies: [] });
  }
  return [...roots.values()];
}

// packages/demo/src/vendors/zendesk.js
var Zendesk = class {
  #list;
  #detail;
  #address;
  #changes = new Changes();
  #tickets = [];
  #fresh = /* @__PURE__ */ new Set();
  #open = null;
  #isShown = false;
  /** `address` gives the link of a ticket. */
  constructor({ list, detail: detail2, address: address2 }) {
    this.#list = list;
    this.#detail = detail2;
    this.#address = address2;
  }
  /** Another tenant's account: what is shown of the one before goes at once. */
  clear() {
    this.#changes.clear();
    this.#tickets = [];
    this.#fresh.clear();
    this.#draw();
  }
  /** Takes a new view. Returns how many tickets are new or differ. */
  take({ tickets }) {
    const fresh = this.#changes.of(tickets, (ticket) => ticket.id);
    for (const id of fresh) this.#fresh.add(id);
    this.#tickets = tickets;
    this.#draw(fresh);
    return fresh.size;
  }
  /** Shows a ticket, or the list alone. */
  open(id) {
    this.#open = id ? Number(id) : null;
    this.#draw();
  }
  /** Whether the person looks at it. What was new is not new any more once they look away. */
  show(isShown) {
    if (this.#isShown && !isShown) this.#fresh.clear();
    this.#isShown = isShown;
    this.#draw();
  }
  #draw(changed = /* @__PURE__ */ new Set()) {
    keyed(
      this.#list,
      this.#tickets,
      (ticket2) => ticket2.id,
      (ticket2) => el("li", { class: "ticket", data: { id: ticket2.id } }, el("a")),
      (node, ticket2) => {
        const link = node.firstElementChild;
        link.href = this.#address(ticket2.id);
        if (ticket2.id === this.#open) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
        mark(node, this.#fresh.has(ticket2.id), changed.has(ticket2.id));
        refill(node, link, ticket2, row);
      }
    );
    const ticket = this.#tickets.find(({ id }) => id === this.#open);
    this.#detail.dataset.open = String(Boolean(ticket));
    const shown3 = ticket ?? { missing: this.#open };
    if (refill(this.#detail, this.#detail, shown3, ticket ? detail(this.#address(null)) : nothing))
      mark(this.#detail, false, changed.has(this.#open));
  }
};
function mark(node, isFresh, isChanged) {
  node.classList.toggle("fresh", isFresh && !isChanged);
  if (!isChanged) return;
  void node.offsetWidth;
  node.classList.add("fresh");
}
function refill(owner, node, item, fill) {
  const source = JSON.stringify(item);
  if (owner.__source === source) return false;
  owner.__source = source;
  node.replaceChildren(...fill(item));
  return true;
}
var isUrgent = ({ priority }) => priority === "urgent" || priority === "high";
var badge = (status) => el("span", { class: "badge", data: { status }, text: status });
function row(ticket) {
  return [
    badge(ticket.status),
    el(
      "span",
      { class: "subject" },
      el("span", { class: "number", text: `#${ticket.id} ` }),
      ticket.subject,
      ticket.unread ? el("span", { class: "unread", text: "unread" }) : null
    ),
    el("span", { class: "requester", text: ticket.requester ?? "" }),
    el("span", { class: isUrgent(ticket) ? "priority urgent" : "priority", text: ticket.priority ?? "" }),
    el("time", { text: clock(ticket.updated_at) })
  ];
}
var detail = (back) => (ticket) => [
  el(
    "header",
    {},
    el("a", { class: "back", href: back, text: "All tickets" }),
    el("h3", { text: ticket.subject }),
    el(
      "p",
      { class: "meta" },
      badge(ticket.status),
      el("span", { text: `#${ticket.id}` }),
      el("span", { text: ticket.requester ? `from ${ticket.requester}` : "without a requester" }),
      ticket.priority ? el("span", { class: isUrgent(ticket) ? "urgent" : "", text: ticket.priority }) : null
    )
  ),
  el("ol", { class: "comments" }, ...ticket.comments.map(comment))
];
function comment({ author, by_agent: byAgent, body, public: isPublic, created_at: at }) {
  return el(
    "li",
    { class: isPublic ? byAgent ? "agent" : "customer" : "internal" },
    el(
      "div",
      { class: "by" },
      el("strong", { text: author ?? "unknown" }),
      el("time", { text: clock(at) }),
      isPublic ? null : el("span", { text: "internal note" })
    ),
    el("div", { class: "text", text: body })
  );
}
var nothing = ({ missing }) => [
  el("p", { class: "empty", text: missing ? `There is no ticket #${missing} here.` : "Choose a ticket to read it." })
];

// packages/demo/src/vendors/slack.js
var TIMEOUT2 = 1e4;
var Slack = class {
  #channelList;
  #title;
  #messages;
  #form;
  #input;
  #problem;
  #replying;
  #address;
  #who;
  #posted;
  #changes = new Changes();
  #channels = [];
  #fresh = /* @__PURE__ */ new Set();
  #open = null;
  #thread = null;
  #isShown = false;
  /**
   * `address` gives the link of a channel, `who` the person and the tenant, `posted` hears that a message was posted.
   * @param {Record<"channels" | "title" | "messages" | "form" | "input" | "problem" | "replying", any> &
   *   { address: (id: string) => string, who: () => { tenant: string, user: string }, posted: () => void }} parts
   */
  constructor({ channels, title, messages, form, input, problem, replying, address: address2, who: who2, posted }) {
    this.#channelList = channels;
    this.#title = title;
    this.#messages = messages;
    this.#form = form;
    this.#input = input;
    this.#problem = problem;
    this.#replying = replying;
    this.#address = address2;
    this.#who = who2;
    this.#posted = posted;
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#write();
    };
    input.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    };
    replying.querySelector("button").onclick = () => this.#replyTo(null);
  }
  /** Another tenant's workspace: what is shown of the one before goes at once. */
  clear() {
    this.#changes.clear();
    this.#channels = [];
    this.#fresh.clear();
    this.#replyTo(null);
    this.#input.value = "";
    setText(this.#problem, "");
    this.#draw();
  }
  /** Takes a new view. Returns how many messages are new or differ. */
  take({ channels }) {
    const all = channels.flatMap(({ id, messages }) => messages.map((message2) => ({ channel: id, ...message2 })));
    const fresh = this.#changes.of(all, keyOf);
    for (const key of fresh) this.#fresh.add(key);
    this.#channels = channels;
    this.#draw(fresh);
    return fresh.size;
  }
  /** Shows a channel; without an id the first one. */
  open(id) {
    if (id !== this.#open) this.#replyTo(null);
    this.#open = id || null;
    this.#draw();
    this.#toEnd();
  }
  /** Whether the person looks at it. What was new is not new any more once they look away. */
  show(isShown) {
    if (this.#isShown && !isShown) this.#fresh.clear();
    this.#isShown = isShown;
    this.#draw();
    if (isShown) this.#toEnd();
  }
  get #channel() {
    return this.#channels.find(({ id }) => id === this.#open) ?? this.#channels[0];
  }
  #draw(changed = /* @__PURE__ */ new Set()) {
    const channel = this.#channel;
    keyed(
      this.#channelList,
      this.#channels,
      ({ id }) => id,
      () => el("li", {}, el("a", {}, el("span", { class: "name" }), el("span", { class: "count" }))),
      (node, { id, name, messages }) => {
        const link = node.firstElementChild;
        link.href = this.#address(id);
        if (id === channel?.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
        setText(link.firstElementChild, name);
        const count2 = messages.filter(({ ts }) => this.#fresh.has(keyOf({ channel: id, ts }))).length;
        setText(link.lastElementChild, count2 ? `${count2} new` : "");
      }
    );
    setText(this.#title, channel?.name ?? "");
    this.#form.hidden = !channel?.can_write;
    this.#input.placeholder = `Write to ${channel?.name ?? ""} as ${this.#who().user}`;
    this.#messages.dataset.name = channel?.name ?? "";
    const isAtEnd = this.#isAtEnd();
    keyed(
      this.#messages,
      channel ? threads(channel.messages) : [],
      ({ ts }) => keyOf({ channel: channel.id, ts }),
      (root) => createThread(channel, () => this.#replyTo(root)),
      (node, root) => {
        const key = (ts) => keyOf({ channel: channel.id, ts });
        mark(node.root, this.#fresh.has(key(root.ts)), changed.has(key(root.ts)));
        refill(node.root, node.root, { ...root, replies: void 0 }, message);
        node.reply.hidden = !channel.can_write;
        keyed(
          node.replies,
          root.replies,
          ({ ts }) => ts,
          () => el("li", { class: "message" }),
          (reply, item) => {
            mark(reply, this.#fresh.has(key(item.ts)), changed.has(key(item.ts)));
            refill(reply, reply, item, message);
          }
        );
      }
    );
    if (isAtEnd) this.#toEnd();
  }
  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#messages;
    return scrollHeight - scrollTop - clientHeight < 60;
  }
  #toEnd() {
    this.#messages.scrollTop = this.#messages.scrollHeight;
  }
  #replyTo(root) {
    this.#thread = root && { channel: this.#channel.id, ts: root.ts };
    this.#replying.hidden = !root;
    setText(this.#replying.firstElementChild, root ? `Replying to ${root.user}` : "");
    if (root) this.#input.focus();
  }
  /** Posts what the person wrote. It stays in the field until Slack has it. */
  async #write() {
    const text = this.#input.value;
    const channel = this.#channel;
    if (!text.trim() || !channel || this.#input.disabled) return;
    const { tenant, user } = this.#who();
    const thread = this.#thread?.channel === channel.id ? this.#thread.ts : void 0;
    this.#input.disabled = true;
    setText(this.#problem, "");
    try {
      await post(tenant, { channel: channel.id, user, text, thread_ts: thread });
      if (this.#input.value === text) this.#input.value = "";
      this.#replyTo(null);
      this.#posted();
    } catch (error) {
      setText(this.#problem, error.message);
    } finally {
      this.#input.disabled = false;
      this.#input.focus();
    }
  }
};
var keyOf = ({ channel, ts }) => `${channel}/${ts}`;
async function post(tenant, written) {
  let answer;
  try {
    answer = await fetch(`demo/slack/messages?${new URLSearchParams({ account: tenant })}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(written),
      signal: AbortSignal.timeout(TIMEOUT2)
    });
  } catch {
    throw new Error("Slack cannot be reached. Your message was not posted; please try again.");
  }
  if (answer.ok) return;
  const { error } = await answer.json().catch(() => ({}));
  throw new Error(`Slack did not post this: ${error ?? `the demo answered ${answer.status}`}.`);
}
function createThread(channel, reply) {
  const node = el("li", { class: "thread", data: { channel: channel.name } });
  node.root = el("div", { class: "message" });
  node.replies = el("ol", { class: "replies" });
  node.reply = el("button", { type: "button", class: "quiet reply", text: "Reply in thread", onclick: reply });
  node.append(node.root, node.replies, node.reply);
  return node;
}
function message({ user, is_bot: isBot, ts, text, edited, reactions }) {
  return [
    el("span", { class: isBot ? "face bot" : "face", "aria-hidden": "true", text: user.slice(0, 1) }),
    el(
      "div",
      { class: "said" },
      el(
        "div",
        { class: "by" },
        el("strong", { text: user }),
        isBot ? el("span", { class: "tag", text: "app" }) : null,
        el("time", { text: clock(Number(ts) * 1e3) }),
        edited ? el("span", { text: "edited" }) : null
      ),
      el("div", { class: "text" }, ...mrkdwn(text)),
      reactions.length ? el("div", { class: "reactions", text: reactions.map((name) => `:${name}:`).join(" ") }) : null
    )
  ];
}

// packages/demo/src/demo.js
var $ = (id) => document.getElementById(id);
var $$ = (selector) => document.querySelectorAll(selector);
var PARTS = ["product", "zendesk", "slack"];
var about;
var who;
var part = PARTS[0];
var chat = null;
var ask = async (text) => {
  await customElements.whenDefined("copilotd-chat");
  await chat.send(text);
};
var product = new Product({
  ask,
  company: $("company"),
  outstanding: $("outstanding"),
  overdue: $("overdue"),
  paid: $("paid"),
  tickets: $("open-tickets"),
  rows: $("invoices"),
  invoice: $("invoice")
});
var activity = new Activity({
  ask,
  conversations: $("conversations"),
  more: $("more"),
  turns: $("turns"),
  earlier: $("earlier"),
  empty: $("no-turns"),
  connection: $("connection"),
  summary: $("activity-summary"),
  problem: $("activity-problem"),
  meanwhile: $("meanwhile"),
  input: $("meanwhile-input"),
  whenBusy: $("when-busy")
});
var zendesk = new Zendesk({ list: $("tickets"), detail: $("ticket"), address: (id) => address("zendesk", id) });
var slack = new Slack({
  channels: $("channels"),
  title: $("channel"),
  messages: $("messages"),
  form: $("write"),
  input: $("write-input"),
  problem: $("write-problem"),
  replying: $("replying"),
  address: (id) => address("slack", id),
  who: () => who,
  posted: () => feeds.slack.poll()
});
var vendors = { zendesk, slack };
var feeds = Object.fromEntries(
  Object.entries(vendors).map(([name, vendor]) => [
    name,
    new Feed(
      /** @type {"zendesk" | "slack"} */
      name,
      {
        news(view) {
          const count2 = vendor.take(view);
          if (view.tickets) product.tickets(view.tickets);
          if (part !== name) noted(name, count2);
        },
        state: (isReachable) => setText($(`${name}-state`), isReachable ? "" : "not reachable, trying again")
      }
    )
  ])
);
async function readAbout() {
  const answer = await fetch("demo.json", { signal: AbortSignal.timeout(5e3) });
  if (!answer.ok) throw new Error(await answer.text());
  about = await answer.json();
}
async function waitForAbout() {
  for (; ; ) {
    try {
      await readAbout();
      $("banner").hidden = true;
      return;
    } catch {
      $("banner").hidden = false;
      setText($("banner"), "The demo is starting…");
      await pause2(500);
    }
  }
}
var address = (to, item, { tenant, user } = who) => `#/${tenant}/${user}/${to}${item ? `/${item}` : ""}`;
function route() {
  let [, tenant, user, to, item] = location.hash.split("/").map(decodeURIComponent);
  if (!about.tenants[tenant]?.users[user]) {
    tenant = Object.keys(about.tenants)[0];
    user = Object.keys(about.tenants[tenant].users)[0];
  }
  if (who?.tenant !== tenant || who?.user !== user) signIn({ tenant, user });
  part = PARTS.includes(to) ? to : PARTS[0];
  document.body.dataset.part = part;
  for (const link of $$(".tabs a")) {
    const name = link.dataset.to;
    link.setAttribute("href", address(name));
    if (name === part) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  noted(part, null);
  for (const [name, vendor] of Object.entries(vendors)) {
    if (name === part) vendor.open(item);
    vendor.show(name === part);
  }
  const title = part === "product" ? "Product" : part.replace(/^./, (first) => first.toUpperCase());
  document.title = `${title} · ${tenant} · copilotd demo`;
}
function tokenSource({ tenant, user }) {
  let isKnown = true;
  return async () => {
    if (!isKnown) await waitForAbout();
    isKnown = false;
    return about.tenants[tenant].users[user];
  };
}
function signIn(next) {
  const isSameTenant = who?.tenant === next.tenant;
  who = next;
  options($("tenant"), Object.keys(about.tenants), who.tenant);
  options($("user"), Object.keys(about.tenants[who.tenant].users), who.user);
  const token = tokenSource(next);
  if (!isSameTenant) {
    for (const [name, vendor] of Object.entries(vendors)) {
      vendor.clear();
      noted(name, null);
      feeds[name].follow(who.tenant);
    }
    product.show(who.tenant);
    offerTrials();
  }
  activity.signIn(createClient({ baseUrl: location.origin, token: tokenSource(next) }));
  const isOpen = chat ? chat.hasAttribute("open") : matchMedia("(min-width: 60rem)").matches;
  chat?.remove();
  chat = mountChat({
    tenant: who.tenant,
    token,
    isOpen,
    heard: (event) => activity.heard(event.detail?.conversationId),
    openInvoice(number) {
      const opened = product.open(number);
      location.hash = address("product");
      return opened;
    }
  });
}
function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => el("option", { value: name, text: name })));
  select.value = chosen;
}
function noted(name, count2) {
  const badge2 = document.querySelector(`.tabs [data-to="${name}"] .count`);
  if (!badge2) return;
  const sum = count2 === null ? 0 : Number(badge2.textContent || 0) + count2;
  setText(badge2, sum ? String(sum) : "");
}
function listen() {
  addEventListener("hashchange", route);
  const become = () => location.hash = address(part, null, { tenant: $("tenant").value, user: $("user").value });
  $("tenant").onchange = become;
  $("user").onchange = become;
  setInterval(() => {
    for (const node of $$(".timer[data-until]"))
      setText(node, (node.dataset.before ?? "") + left(node.dataset.until));
  }, 1e3);
}
function offerTrials() {
  const always = [opening(product.example, about.simulated_model), ...ALWAYS];
  const usable = about.simulated_model ? [...TRIALS, ...always] : always;
  $("trials").replaceChildren(
    ...usable.map(
      ({ label, text }) => el("button", { type: "button", class: "small", title: text, text: label, onclick: () => activity.say(text) })
    )
  );
}
async function start() {
  await waitForAbout();
  $("activity").open = matchMedia("(min-width: 48rem)").matches;
  listen();
  route();
  for (const feed of Object.values(feeds)) feed.run();
  activity.run(pause2);
}
start().catch((error) => {
  console.error(error);
  $("banner").hidden = false;
  setText($("banner"), "The page could not start. Please reload it.");
});
