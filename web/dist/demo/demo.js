// packages/demo/src/api.js
var ApiError = class extends Error {
  constructor(status, problem2, retryAfter) {
    super(problem2.detail || problem2.title || "The server cannot be reached.");
    this.status = status;
    this.code = problem2.code ?? (status ? `http_${status}` : "unreachable");
    this.errors = problem2.errors ?? [];
    this.retryAfter = retryAfter;
  }
  /** Whether the same request may simply be sent again, because the server was away or too busy to look at it. */
  get passing() {
    return this.status === 0 || this.status === 408 || this.status >= 502;
  }
};
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
var Api = class {
  /** `renew` gives a fresh token once the old one has expired. */
  constructor(token, renew) {
    this.token = token;
    this.renew = renew;
  }
  /**
   * @param {string} method
   * @param {string} path
   * @param {Options} options
   */
  async call(method, path, { body, key, signal } = {}) {
    let response = await this.#send(method, path, body, key, signal);
    if (response.status === 401) {
      this.token = await this.renew();
      response = await this.#send(method, path, body, key, signal);
    }
    if (response.status === 204) return null;
    const json = await response.json().catch((error) => {
      if (signal?.aborted) throw error;
      return {};
    });
    if (response.ok) return json;
    throw new ApiError(response.status, json, Number(response.headers.get("retry-after")) || void 0);
  }
  /**
   * Calls until there is an answer. Only for what may be repeated: reads, and what bears an idempotency key.
   * `waiting` hears of each attempt that failed.
   * @param {string} method
   * @param {string} path
   * @param {Options} options
   * @param {(error: ApiError) => void} waiting
   */
  async insist(method, path, options2 = {}, waiting = () => {
  }) {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.call(method, path, options2);
      } catch (error) {
        if (!(error instanceof ApiError) || !error.passing) throw error;
        waiting(error);
        await pause(error.retryAfter ? error.retryAfter * 1e3 : Math.min(500 * 2 ** attempt, 4e3), options2.signal);
      }
    }
  }
  async #send(method, path, body, key, signal) {
    const headers = { authorization: `Bearer ${this.token}` };
    if (body !== void 0) headers["content-type"] = "application/json";
    if (key) headers["idempotency-key"] = key;
    try {
      return await fetch(path, {
        method,
        headers,
        signal,
        body: body === void 0 ? void 0 : JSON.stringify(body)
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, {});
    }
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
function icon(name) {
  const make = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const svg = make("svg");
  const use = make("use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function keyed(parent, items, key, create2, update2) {
  const old = new Map([...parent.children].map((node) => [node.__key, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let node = old.get(id);
    if (node) old.delete(id);
    else {
      node = create2(item);
      node.__key = id;
    }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    update2?.(node, item);
  }
  for (const node of old.values()) node.remove();
}
function clock(time) {
  const date = new Date(time);
  const today = date.toDateString() === (/* @__PURE__ */ new Date()).toDateString();
  const hours = { hour: "2-digit", minute: "2-digit" };
  return date.toLocaleString([], today ? hours : { ...hours, month: "short", day: "numeric" });
}
function left(until) {
  const seconds = Math.max(0, Math.round((new Date(until).getTime() - Date.now()) / 1e3));
  const pad = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return (hours ? `${hours}:${pad(minutes)}` : `${minutes}`) + `:${pad(seconds % 60)}`;
}

// packages/demo/src/list.js
var PAGE = 30;
var LAG = 1100;
var List = class {
  #timer;
  /** `parent` and `more` are nodes; `address` gives a link, `isOpen` tells which is open, `chosen` hears of a click. */
  constructor({ parent, more, address: address2, isOpen, chosen }) {
    this.parent = parent;
    this.more = more;
    this.address = address2;
    this.isOpen = isOpen;
    this.chosen = chosen;
    this.api = null;
    this.data = [];
    this.cursor = null;
    this.extended = false;
    this.deleted = /* @__PURE__ */ new Set();
  }
  /** Begins anew with another caller. */
  of(api2) {
    Object.assign(this, { api: api2, data: [], cursor: null, extended: false });
    this.draw();
    this.refresh();
  }
  /** Reads the newest ones, after a delay. */
  refresh(delay = 0) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      const { api: api2 } = this;
      try {
        const page = await api2.call("GET", `/v1/conversations?limit=${PAGE}`);
        if (api2 !== this.api) return;
        const oldest = page.data.at(-1)?.created_at;
        const older = this.extended ? this.data.filter(({ created_at }) => created_at < oldest) : [];
        this.data = [...page.data, ...older];
        if (!this.extended) this.cursor = page.next_cursor;
        this.draw();
      } catch {
        this.refresh(3e3);
      }
    }, delay);
  }
  /** Reads the page behind those that are shown. */
  async older() {
    const page = await this.api.insist(
      "GET",
      `/v1/conversations?${new URLSearchParams({ limit: String(PAGE), cursor: this.cursor })}`
    );
    this.data.push(...page.data);
    Object.assign(this, { cursor: page.next_cursor, extended: true });
    this.draw();
  }
  add(conversation) {
    if (!this.data.some(({ id }) => id === conversation.id)) this.data.unshift(conversation);
    this.draw();
  }
  change(conversation) {
    this.data = this.data.map((known) => known.id === conversation.id ? conversation : known);
    this.refresh(LAG);
  }
  remove(id) {
    this.deleted.add(id);
    this.draw();
  }
  draw() {
    const create2 = () => el("li", {}, el("a", { onclick: this.chosen }, el("span", { class: "name" }), el("span", { class: "meta" })));
    const shown2 = this.data.filter(({ id }) => !this.deleted.has(id));
    keyed(
      this.parent,
      shown2,
      ({ id }) => id,
      create2,
      (node, conversation) => {
        const link2 = node.firstElementChild;
        link2.href = this.address(conversation.id);
        if (this.isOpen(conversation.id)) link2.setAttribute("aria-current", "page");
        else link2.removeAttribute("aria-current");
        const turns = conversation.turn_count === 1 ? "1 turn" : `${conversation.turn_count} turns`;
        setText(link2.firstElementChild, conversation.title ?? "Untitled");
        setText(link2.lastElementChild, `${clock(conversation.updated_at)} · ${turns}`);
      }
    );
    this.more.hidden = !this.cursor;
  }
};

// packages/demo/src/sentences.js
var SORRY = "Something went wrong on our side. Please try again. If it happens again, tell your administrator.";
var REFUSALS = {
  unreachable: "The copilot cannot be reached at the moment. Please try again in a moment.",
  unauthenticated: "You are not signed in any more. Please reload the page.",
  forbidden: "You are not allowed to do this. Please ask your administrator.",
  not_found: "This is not there any more, or it is not yours. Please reload the page.",
  conflict: "Somebody changed this in the meantime. Please reload the page and try again.",
  idempotency_key_reused: "This message was changed after it was sent. Please send it again.",
  not_waiting: "This has been decided already. Please reload the page to see how.",
  turn_running: "The copilot is still answering. Please wait until it is done, then send your message again.",
  queue_full: "Several messages are waiting already. Please wait for an answer before you send the next one.",
  too_large: "This message is too long. Please shorten it, or send it in several parts.",
  invalid: "This cannot be accepted as it is. Please check what you entered and try again.",
  malformed: "This cannot be accepted as it is. Please check what you entered and try again.",
  quota_exceeded: "This is more than your plan allows. Please shorten your message, or delete old conversations.",
  budget_exhausted: "The budget for the copilot is used up. Please ask your administrator to raise it.",
  overloaded: "The copilot is very busy. Please try again in a minute.",
  unavailable: "The copilot is not available at the moment. Please try again in a minute.",
  timeout: "This took too long to send. Please check your connection and try again."
};
var FAILURES = {
  provider_unavailable: "The copilot did not get an answer from its model. Please ask again in a minute.",
  provider_rejected: "The model could not take this request. Please put your question in other words and ask again.",
  content_policy: "This question cannot be answered here. Please put it in other words.",
  context_too_long: "This is more text than the copilot can read at once. Please shorten it, or start a new conversation.",
  guardrail_blocked: "A safety rule of your company stopped this answer. Please put your question in other words.",
  schema_failed: "The answer did not come out in the form that was wanted. Please ask again.",
  limit_steps: "This took more steps than are allowed. Please ask for less at once.",
  limit_cost: "This would have cost more than is allowed. Please ask for less at once.",
  limit_time: "This took longer than is allowed. Please ask again, or ask for less at once.",
  rate_limited: "There were too many questions at once. Please ask again in a minute.",
  budget_exhausted: "The budget for the copilot is used up. Please ask your administrator to raise it.",
  attempts_exhausted: "The work on this answer was interrupted several times. Please ask again."
};
var WAITS = {
  provider_rate_limit: "The model is busy; the answer goes on in",
  provider_unavailable: "The model does not answer; the next try is in",
  limit: "Many questions are being answered; this one goes on in"
};
var BROKEN_OFF = "The answer was interrupted";
var RESETS = {
  recovered: "The server was restarted in mid-answer; the answer begins again",
  response_schema: "The answer did not fit its form; the model was asked again",
  guardrail: "A safety rule took the answer back"
};
var reset = (reason) => RESETS[reason] ?? BROKEN_OFF;
var failure = (code) => FAILURES[code] ?? SORRY;
var wait = (reason) => WAITS[reason] ?? "Waiting; it goes on in";
function refusal(error) {
  if (error.code === "rate_limited") {
    const seconds = Math.ceil(error.retryAfter ?? 0);
    const when = seconds > 1 ? `in ${seconds} seconds` : "in a moment";
    return `That was too much at once. Please try again ${when}.`;
  }
  return REFUSALS[error.code] ?? (error.constructor === Error ? error.message : SORRY);
}
function outcome({ name, status }) {
  const system = name.split("_")[0].replace(/^./, (first) => first.toUpperCase());
  const isReading = /_(search|get|list|find)_/.test(name);
  if (status === "rejected") return "Nobody allowed this, so it was not done.";
  if (status === "cancelled") return "This was stopped before it was done.";
  if (status === "unknown")
    return `It is not certain whether this was done. Please look in ${system} before you ask for it again.`;
  if (isReading) return `${system} could not show this. Please check what you asked for, and ask again.`;
  return `${system} did not accept this, and nothing was changed. Please check the details, and ask again.`;
}
function fields(error, given = {}) {
  const names = (error.errors ?? []).map(({ pointer }) => (pointer ?? "").split("/").filter(Boolean));
  const known = names.filter((name) => name.length).map((name) => name.find((part) => part in given) ?? name.at(-1));
  if (!known.length) return refusal(error);
  const say = (name) => {
    const shown2 = `“${name.replaceAll("_", " ")}”`;
    return given[name] === "" ? `Please fill in ${shown2}.` : `Please check ${shown2}: this is not possible there.`;
  };
  return [...new Set(known)].map(say).join("\n");
}

// packages/demo/src/markdown.js
var ITEM = /^\s*(?:[-*+•]|(\d+)[.)])\s+(.*)$/;
var INLINE = either(
  /(`+)(.+?)\1/,
  // code
  /\*\*(.+?)\*\*/,
  // strong
  /\*([^\s*][^*]*?)\*/,
  // emphasis, in two spellings
  /\b_([^_]+)_\b/,
  /\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/,
  // a link with a label, and a bare one
  /(https?:\/\/[^\s<>)\]]*[^\s<>)\].,;:!?])/
);
var MRKDWN = either(
  /<(https?:[^|>]+)(?:\|([^>]*))?>/,
  // a link
  /<[@#!][^|>]*(?:\|([^>]*))?>/,
  // someone, a channel or everyone
  /`([^`]+)`/,
  /(?<!\w)\*([^*\n]+)\*(?!\w)/,
  /(?<!\w)_([^_\n]+)_(?!\w)/
);
function either(...patterns) {
  return new RegExp(patterns.map((pattern) => pattern.source).join("|"), "g");
}
function render(container, text) {
  const blocks = split(text);
  blocks.forEach((block, index) => {
    const source = JSON.stringify(block);
    const old = container.children[index];
    if (old?.__source === source) return;
    const node = build(block);
    node.__source = source;
    if (old) old.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}
function split(text) {
  const blocks = [];
  let open2 = null;
  const begin = (kind, more = {}) => blocks.push(open2 = { kind, lines: [], ...more });
  for (const line of text.split("\n")) {
    if (open2?.kind === "code") {
      if (/^\s*```\s*$/.test(line)) open2 = null;
      else open2.lines.push(line);
      continue;
    }
    const heading = /^(#{1,4})\s+(.*)$/.exec(line);
    const item = ITEM.exec(line);
    const quote = /^>\s?(.*)$/.exec(line);
    if (/^\s*```/.test(line)) begin("code");
    else if (!line.trim()) open2 = null;
    else if (heading) {
      begin("heading");
      open2.lines.push(heading[2]);
      open2 = null;
    } else if (item) {
      const kind = item[1] ? "ol" : "ul";
      if (open2?.kind !== kind) begin(kind, { start: item[1] });
      open2.lines.push(item[2]);
    } else if (quote) {
      if (open2?.kind !== "quote") begin("quote");
      open2.lines.push(quote[1]);
    } else if (open2 && /^\s{2,}/.test(line) && (open2.kind === "ul" || open2.kind === "ol")) {
      open2.lines[open2.lines.length - 1] += `
${line.trim()}`;
    } else {
      if (open2?.kind !== "p") begin("p");
      open2.lines.push(line);
    }
  }
  return blocks;
}
function build({ kind, lines, start: start2 }) {
  switch (kind) {
    case "code":
      return el("pre", { tabindex: 0 }, el("code", { text: lines.join("\n") }));
    case "heading":
      return el("h4", {}, ...inline(lines[0]));
    case "ul":
    case "ol":
      return el(kind, { start: start2 }, ...lines.map((line) => el("li", {}, ...inline(line))));
    case "quote":
      return el("blockquote", {}, ...inline(lines.join("\n")));
    default:
      return el("p", {}, ...inline(lines.join("\n")));
  }
}
function inline(text) {
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, , code, strong, emphasis, alike, label, target, bare] = found;
    nodes.push(text.slice(at, found.index));
    if (code !== void 0) nodes.push(el("code", { text: code }));
    else if (strong !== void 0) nodes.push(el("strong", {}, ...inline(strong)));
    else if (label !== void 0) nodes.push(link(target, label));
    else if (bare !== void 0) nodes.push(link(bare, bare));
    else nodes.push(el("em", {}, ...inline(emphasis ?? alike)));
    at = found.index + whole.length;
  }
  nodes.push(text.slice(at));
  return nodes;
}
function link(href, text) {
  return el("a", { href, text, target: "_blank", rel: "noopener noreferrer" });
}
function mrkdwn(text) {
  const plain = (part) => part.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(MRKDWN)) {
    const [whole, target, label, mention, code, strong, emphasis] = found;
    nodes.push(plain(text.slice(at, found.index)));
    if (target) nodes.push(link(plain(target), plain(label ?? target)));
    else if (code) nodes.push(el("code", { text: plain(code) }));
    else if (strong) nodes.push(el("strong", { text: plain(strong) }));
    else if (emphasis) nodes.push(el("em", { text: plain(emphasis) }));
    else nodes.push(plain(mention ?? whole));
    at = found.index + whole.length;
  }
  nodes.push(plain(text.slice(at)));
  return nodes;
}

// packages/demo/src/transcript.js
var STATUS = {
  proposed: "proposed",
  awaiting_approval: "needs approval",
  running: "running",
  succeeded: "done",
  failed: "failed",
  rejected: "rejected",
  cancelled: "cancelled",
  unknown: "outcome unknown"
};
function toolName(name) {
  const [system, ...action] = name.split("_");
  return action.length ? `${system[0].toUpperCase()}${system.slice(1)}: ${action.join(" ")}` : name;
}
var shown = (value) => typeof value === "string" ? value : JSON.stringify(value, null, 2);
var brief = (value) => value && typeof value === "object" ? Object.entries(value).map(([key, part]) => `${key.replaceAll("_", " ")}: ${typeof part === "string" ? part : JSON.stringify(part)}`).join(", ") : shown(value ?? "");
function createTurn(turn, actions2) {
  const node = el("li", { class: "turn" });
  node.said = el("div", { class: "said" }, el("span", { class: "hidden", text: "You: " }), userText(turn.input));
  node.items = el("div", { class: "items" });
  node.status = el("div", { class: "status" });
  node.foot = el("div", { class: "foot" });
  node.actions = actions2;
  node.append(
    node.said,
    el(
      "div",
      { class: "answer" },
      el("span", { class: "hidden", text: "Copilot: " }),
      node.items,
      node.status,
      node.foot
    )
  );
  return node;
}
function userText(text) {
  const parts = text.split(/(\[\[sim.*?\]\])/s).filter((part) => part.trim());
  const node = el("div", { class: "bubble" });
  for (const part of parts) {
    node.append(part.startsWith("[[sim") ? el("code", { text: part }) : el("span", { text: part.trim() }));
  }
  return node;
}
function updateTurn(node, turn, position) {
  node.dataset.status = turn.state;
  keyed(
    node.items,
    turn.items.filter(visible).flatMap(withSources),
    (item) => item.id,
    (item) => create(item, turn, node.actions),
    update
  );
  updateStatus(node, turn, position);
  updateFoot(node, turn);
}
var visible = (item) => item.kind !== "message" || item.text !== "";
function withSources(item) {
  if (!item.citations?.length) return [item];
  return [item, { kind: "sources", id: `${item.id}:sources`, citations: item.citations }];
}
function create(item, turn, actions2) {
  if (item.kind === "sources") return sources(item.citations);
  if (item.kind === "note") return el("p", { class: "note", text: item.text });
  if (item.kind === "message") return el("div", { class: "message", data: { id: item.id } });
  return createCall(item, turn, actions2);
}
function update(node, item) {
  if (item.kind === "message") {
    node.classList.toggle("open", !item.done);
    render(node, item.text);
  } else if (item.kind === "call") updateCall(node, item);
}
function sources(citations) {
  const source = ({ title, external_id, uri, page, quote }) => {
    const name = title || external_id || "Document";
    return el(
      "li",
      {},
      /^https?:\/\//i.test(uri ?? "") ? link(uri, name) : el("span", { text: name }),
      page ? el("span", { class: "page", text: `, page ${page}` }) : null,
      el("q", { text: quote })
    );
  };
  return el("ol", { class: "sources", "aria-label": "Sources" }, ...citations.map(source));
}
function createCall(call, turn, actions2) {
  const node = el("div", { class: "call", data: { name: call.name } });
  node.brief = el("span", { class: "brief" });
  node.badge = el("span", { class: "badge" });
  node.given = el("pre", { tabindex: 0 });
  node.outcome = el("pre", { tabindex: 0 });
  node.failure = el("p", { class: "outcome", hidden: true });
  node.outcomeName = el("h4");
  node.details = el(
    "details",
    {},
    el("summary", {}, el("span", { class: "name", text: toolName(call.name) }), node.brief, node.badge),
    el("h4", { text: "Arguments" }),
    node.given,
    node.outcomeName,
    node.outcome
  );
  node.append(node.details, node.failure);
  node.decide = (decision, edited) => actions2.decide(turn, call, decision, edited);
  return node;
}
function updateCall(node, call) {
  node.dataset.status = call.status;
  setText(node.brief, brief(call.arguments));
  setText(
    node.badge,
    call.decided && call.status !== "succeeded" ? call.decided : STATUS[call.status] ?? call.status
  );
  setText(node.given, shown(call.arguments));
  node.outcome.hidden = node.outcomeName.hidden = call.result === void 0 || call.result === null;
  setText(node.outcomeName, "Result");
  if (!node.outcome.hidden) setText(node.outcome, shown(call.result));
  node.failure.hidden = !["failed", "rejected", "cancelled", "unknown"].includes(call.status);
  if (!node.failure.hidden) setText(node.failure, outcome(call));
  const asks = call.status === "awaiting_approval";
  if (asks && !node.approval) node.append(node.approval = approval(node, call));
  if (!asks && node.approval) {
    const focused = node.approval.contains(document.activeElement);
    node.approval.remove();
    node.approval = null;
    if (focused) node.querySelector("summary").focus();
  }
  node.details.hidden = asks;
}
function approval(node, call) {
  const title = el("h4", { text: `${toolName(call.name)}?` });
  const timer = el("span", {
    class: "timer",
    data: { until: call.expiresAt, before: "expires in " },
    text: `expires in ${left(call.expiresAt)}`
  });
  const problem2 = el("p", { class: "problem", role: "alert", hidden: true });
  const body = el("dl");
  for (const [key, value] of Object.entries(call.arguments)) {
    body.append(el("dt", { text: key.replaceAll("_", " ") }), el("dd", { text: shown(value) }));
  }
  let fields2 = null;
  const edit = el("button", {
    type: "button",
    class: "small",
    text: "Edit",
    onclick: () => {
      fields2 = Object.entries(call.arguments).map(([key, value]) => ({
        key,
        value,
        input: el("textarea", { rows: Math.min(8, shown(value).split("\n").length), "aria-label": key })
      }));
      body.replaceChildren();
      for (const { key, value, input } of fields2) {
        input.value = shown(value);
        body.append(el("dt", { text: key.replaceAll("_", " ") }), el("dd", {}, input));
      }
      edit.hidden = true;
      fields2[0]?.input.focus();
    }
  });
  const decide = async (decision) => {
    const buttons = [...box.querySelectorAll("button")];
    problem2.hidden = true;
    try {
      const edited = decision === "approve" && fields2 ? read(fields2) : void 0;
      for (const button of buttons) button.disabled = true;
      await node.decide(decision, edited);
    } catch (error) {
      setText(problem2, fields(error, written(fields2)));
      problem2.hidden = false;
      for (const button of buttons) button.disabled = false;
    }
  };
  const box = el(
    "div",
    { class: "approval", role: "group", "aria-label": `Approval: ${toolName(call.name)}` },
    el("div", { class: "head" }, title, timer),
    body,
    problem2,
    el(
      "div",
      { class: "buttons" },
      el("button", { type: "button", class: "primary", text: "Approve", onclick: () => decide("approve") }),
      edit,
      el("button", { type: "button", class: "small", text: "Reject", onclick: () => decide("reject") })
    )
  );
  return box;
}
var written = (fields2) => Object.fromEntries((fields2 ?? []).map(({ key, input }) => [key, input.value.trim()]));
function read(fields2) {
  const entries = fields2.map(({ key, value, input }) => {
    if (typeof value === "string") return [key, input.value];
    try {
      return [key, JSON.parse(input.value)];
    } catch {
      throw new Error(`Please check “${key.replaceAll("_", " ")}”: keep its brackets and quotation marks as they were.`);
    }
  });
  return Object.fromEntries(entries);
}
function updateStatus(node, turn, position) {
  const say = statusLine(turn, position);
  const key = turn.ended ? "" : `${turn.state}|${say}`;
  if (node.status.__key === key) return;
  node.status.__key = key;
  node.status.replaceChildren();
  if (turn.ended) return;
  const until = turn.waiting?.until;
  node.status.append(
    el("span", { class: "pulse", "aria-hidden": "true" }),
    el("span", { text: say }),
    until ? el("span", { class: "timer", data: { until }, text: left(until) }) : "",
    el("button", {
      type: "button",
      class: "quiet",
      onclick: () => node.actions.cancel(turn),
      text: turn.state === "queued" ? "Remove from the queue" : "Cancel"
    })
  );
}
function statusLine(turn, position) {
  if (turn.waiting) return wait(turn.waiting.reason);
  if (turn.state === "queued") return position ? `Queued, number ${position} in line` : "Queued";
  if (turn.state === "awaiting_approval") return "Waiting for your decision";
  if (turn.calls().some((call) => call.status === "running")) return "Using tools";
  const again2 = turn.attempt > 1 ? `, attempt ${turn.attempt}` : "";
  return (turn.open?.text ? "Answering" : "Thinking") + again2;
}
function updateFoot(node, turn) {
  const key = JSON.stringify([turn.status, turn.usage, turn.rating, turn.error]);
  if (node.foot.__key === key) return;
  node.foot.__key = key;
  node.foot.replaceChildren();
  if (turn.status === "failed") {
    node.foot.append(
      el(
        "div",
        { class: "failure" },
        el("strong", { text: "No answer this time" }),
        el("p", { text: failure(turn.error.code) }),
        el(
          "button",
          { type: "button", class: "small", onclick: () => node.actions.retry(turn) },
          icon("retry"),
          "Ask again"
        )
      )
    );
  }
  if (turn.status === "cancelled") node.foot.append(el("span", { class: "note", text: "Cancelled" }));
  if (turn.usage?.prompt_tokens) node.foot.append(el("span", { class: "usage", text: usage(turn) }));
  if (turn.status === "completed")
    node.foot.append(thumb(node, turn, 1, "good", "Good answer"), thumb(node, turn, -1, "bad", "Bad answer"));
}
function thumb(node, turn, rating, name, label) {
  return el(
    "button",
    {
      type: "button",
      class: "icon thumb",
      "aria-label": label,
      title: label,
      "aria-pressed": String(turn.rating === rating),
      onclick: () => node.actions.feedback(turn, rating)
    },
    icon(name)
  );
}
function usage({ usage: used, firstTokenMs, finishedAt }) {
  const count = (number) => number.toLocaleString();
  const cached = used.cached_tokens ? ` (${count(used.cached_tokens)} cached)` : "";
  return [
    `${count(used.prompt_tokens)} tokens in${cached}, ${count(used.completion_tokens)} out`,
    used.cost_usd ? `$${used.cost_usd.toFixed(4)}` : null,
    firstTokenMs === null || firstTokenMs === void 0 ? null : `first word after ${(firstTokenMs / 1e3).toFixed(1)} s`,
    used.models.join(", ") || null,
    finishedAt ? clock(finishedAt) : null
  ].filter(Boolean).join(" · ");
}

// packages/demo/src/outbox.js
var Outbox = class {
  #delivering = false;
  /** `apiOf` makes a caller; `changed` hears of every change; `began` of a conversation that a message began. */
  constructor(apiOf2, { changed, began }) {
    this.apiOf = apiOf2;
    this.changed = changed;
    this.began = began;
    this.entries = JSON.parse(sessionStorage.getItem("outbox") ?? "[]");
  }
  /** Takes `{who, conversation | null, draft, text, whenBusy}`. */
  add(entry) {
    this.entries.push({ key: crypto.randomUUID(), ...entry });
    this.#keep();
    this.changed();
    this.deliver();
  }
  async deliver() {
    if (this.#delivering) return;
    this.#delivering = true;
    for (let entry; entry = this.entries.find(({ accepted, error }) => !accepted && !error); ) {
      try {
        await this.#send(entry);
        entry.accepted = true;
      } catch (error) {
        entry.error = refusal(error);
      }
      this.#keep();
      this.changed();
    }
    this.#delivering = false;
  }
  async #send(entry) {
    const api2 = this.apiOf(entry.who);
    const away = () => {
      entry.away = true;
      this.changed();
    };
    if (!entry.conversation) {
      const { key, title } = entry.draft;
      const made = await api2.insist("POST", "/v1/conversations", { body: { title }, key }, away);
      entry.conversation = made.id;
      this.#keep();
      this.began(entry.draft, made, entry.who);
    }
    const body = { input: entry.text, when_busy: entry.whenBusy, metadata: { send: entry.key } };
    await api2.insist("POST", `/v1/conversations/${entry.conversation}/turns`, { body, key: entry.key }, away);
  }
  /** Lets go of what the conversation shows by now. */
  settle(keys) {
    if (this.entries.some(({ key }) => keys.has(key))) this.#drop(({ key }) => keys.has(key));
  }
  #drop(which) {
    this.entries = this.entries.filter((entry) => !which(entry));
    this.#keep();
  }
  /** Keeps what a reload would lose. What is accepted is the server's to keep. */
  #keep() {
    sessionStorage.setItem("outbox", JSON.stringify(this.entries.filter(({ accepted }) => !accepted)));
  }
  /** Shows some of the entries. `again` sends a text anew. */
  draw(parent, entries, again2) {
    const create2 = (entry) => {
      const node = el("li", { class: "turn" }, el("div", { class: "said" }, userText(entry.text)));
      node.append(node.state = el("div", { class: "sending" }));
      return node;
    };
    keyed(
      parent,
      entries,
      (entry) => entry.key,
      create2,
      (node, entry) => {
        const say = entry.error ?? (entry.away && !entry.accepted ? "Not sent yet; trying again…" : "Sending…");
        if (node.__say === say) return;
        node.__say = say;
        node.state.replaceChildren(el("span", { role: entry.error ? "alert" : null, text: say }));
        if (!entry.error) return;
        const drop = () => {
          this.#drop((other) => other === entry);
          this.changed();
        };
        const retry = () => (drop(), again2(entry.text));
        node.state.append(
          el("button", { type: "button", class: "small", onclick: retry }, icon("retry"), "Try again"),
          el("button", { type: "button", class: "quiet", text: "Discard", onclick: drop })
        );
      }
    );
  }
};

// packages/demo/src/turns.js
var RANK = { proposed: 0, awaiting_approval: 1, running: 2 };
var rank = (status) => RANK[status] ?? 3;
var ENDED = ["completed", "failed", "cancelled"];
var EVENTS = [
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
  "turn.cancelled"
];
function words(content) {
  return typeof content === "string" ? content : content.map((part) => part.text ?? "").join("\n");
}
var Turn = class _Turn {
  constructor(id, seq, input, metadata = {}) {
    this.id = id;
    this.seq = seq;
    this.input = words(input);
    this.metadata = metadata;
    this.status = "queued";
    this.attempt = 0;
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
  static from(messages, view2) {
    const turn = new _Turn(view2.id, messages[0].seq, messages[0].content, view2.metadata);
    const calls = [...view2.tool_calls];
    for (const message of messages) {
      if (message.role === "assistant") {
        const { id, content, citations } = message;
        turn.items.push({ kind: "message", id, text: words(content), done: true, citations });
      } else if (message.role === "tool" && calls.length) turn.#call(calls.shift());
    }
    for (const call of calls) turn.#call(call);
    for (const { rule, stage, action } of view2.guardrails)
      turn.note(`guardrail:${rule}:${stage}`, guardrail(rule, action));
    turn.status = view2.status === "awaiting_approval" ? "running" : view2.status;
    turn.attempt = view2.attempt;
    turn.error = view2.error;
    turn.rating = view2.feedback?.rating ?? null;
    turn.waiting = view2.waiting;
    turn.firstTokenMs = view2.first_token_ms;
    turn.finishedAt = view2.finished_at;
    if (turn.ended) turn.usage = view2.usage;
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
    if (!found) this.items.push(found = { kind: "message", id, text: "", done: false });
    return found;
  }
  #change(id, status, more = {}) {
    const call = this.items.find((item) => item.id === id);
    if (!call || rank(status) < rank(call.status) || rank(call.status) === 3 && rank(status) === 3) return;
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
        if (data.reason !== "stopped") this.note(`reset:${data.seq}`, reset(data.reason));
        break;
      }
      case "approval.requested":
        this.#change(data.call_id, "awaiting_approval", { arguments: data.arguments, expiresAt: data.expires_at });
        break;
      case "approval.decided":
        this.#change(data.call_id, data.decision === "approved" ? "running" : "rejected", {
          decided: data.decision === "expired" ? "expired" : `${data.decision} by ${data.by}`,
          ...data.arguments && { arguments: data.arguments }
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
          `Earlier messages were summarised: ${data.tokens_before} tokens became ${data.tokens_after}`
        );
        break;
      case "turn.completed":
      case "turn.cancelled":
        this.#end(type.slice(5), data.at, {
          usage: data.usage,
          firstTokenMs: data.first_token_ms ?? this.firstTokenMs
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
    for (const item of this.items) if (item.kind === "message") item.done = true;
  }
};
function guardrail(rule, action) {
  const what = {
    allow: "was noted",
    redact: "took something out",
    block: "stopped it",
    repair: "sent it back to the model"
  };
  return `The safety rule “${rule.replaceAll("_", " ")}” ${what[action] ?? "was applied"}`;
}
var History = class {
  constructor(api2, conversation) {
    this.api = api2;
    this.path = `/v1/conversations/${conversation}/messages`;
    this.cursor = null;
    this.rest = [];
    this.lastSeq = 0;
    this.more = true;
  }
  /** Reads on, towards the beginning. */
  async earlier(signal) {
    let found = [];
    let views = /* @__PURE__ */ new Map();
    while (this.more && !found.length) {
      const query = new URLSearchParams({ order: "desc", limit: "100", ...this.cursor && { cursor: this.cursor } });
      const page = await this.api.insist("GET", `${this.path}?${query}`, { signal });
      if (!this.cursor) this.lastSeq = page.last_seq;
      this.cursor = page.next_cursor;
      this.more = Boolean(this.cursor);
      for (const view2 of page.turns) views.set(view2.id, view2);
      const byTurn = Map.groupBy(
        [...this.rest, ...page.data].sort((a, b) => a.seq - b.seq),
        (message) => message.turn_id
      );
      const isWhole = (messages) => messages[0].role === "user" && views.has(messages[0].turn_id);
      found = [...byTurn.values()].filter(isWhole);
      this.rest = [...byTurn.values()].filter((messages) => !isWhole(messages)).flat();
    }
    return found.map((messages) => Turn.from(messages, views.get(messages[0].turn_id)));
  }
};

// packages/demo/src/world.js
var PERIOD = 1e3;
var Pane = class {
  constructor({ body, state, where, moved, draw: draw2 }) {
    this.body = body;
    this.state = state;
    this.where = where;
    this.moved = moved;
    this.draw = draw2;
    this.changed = null;
    this.version = 0;
    this.origin = null;
    this.account = null;
  }
  /** Shows another tenant's account; what is shown of the one before goes at once. */
  show(account) {
    if (account === this.account) return;
    Object.assign(this, { account, version: 0 });
    this.body.replaceChildren();
    this.#poll();
  }
  async run(changed) {
    this.changed = changed;
    for (; ; ) {
      if (!document.hidden) await this.#poll();
      await new Promise((resolve) => setTimeout(resolve, PERIOD));
    }
  }
  async #poll() {
    const { account } = this;
    const origin = this.where();
    if (origin !== this.origin) Object.assign(this, { origin, version: 0 });
    const { version } = this;
    try {
      const query = new URLSearchParams({ account, after: String(version) });
      const answer = await fetch(`${origin}/_sim/changes?${query}`, { signal: AbortSignal.timeout(5e3) });
      const news = await answer.json();
      if (account !== this.account || version !== this.version || !answer.ok) return;
      setText(this.state, "");
      if (!news.changed) return;
      this.version = news.version;
      this.draw(this.body, news, version !== 0 && (() => this.changed?.()));
    } catch {
      setText(this.state, "not reachable, trying again");
      await this.moved().catch(() => {
      });
    }
  }
};
function flash(node, changed) {
  if (!changed) return;
  changed();
  node.classList.remove("fresh");
  void node.offsetWidth;
  node.classList.add("fresh");
}
function list(parent, items, key, create2, fill, changed) {
  keyed(parent, items, key, create2, (node, item) => {
    const source = JSON.stringify(item);
    if (node.__source === source) return;
    node.__source = source;
    fill(node, item);
    flash(node, changed);
  });
}
function drawSlack(body, { channels }, changed) {
  const busy = channels.filter((channel) => channel.messages.length);
  keyed(
    body,
    busy,
    (channel) => channel.id,
    createChannel,
    (node, channel) => {
      list(
        node.messages,
        channel.messages,
        (message) => message.ts,
        () => el("li"),
        fillMessage,
        changed
      );
      const last = node.messages.lastElementChild;
      if (changed && last?.classList.contains("fresh")) last.scrollIntoView({ block: "nearest" });
    }
  );
}
function createChannel(channel) {
  const node = el("section", { class: "channel", data: { name: channel.name } }, el("h3", { text: channel.name }));
  node.messages = el("ol");
  node.append(node.messages);
  return node;
}
function fillMessage(node, message) {
  const time = new Date(Number(message.ts) * 1e3);
  node.classList.toggle("reply", Boolean(message.thread_ts && message.thread_ts !== message.ts));
  node.replaceChildren(
    el(
      "div",
      { class: "by" },
      el("strong", { text: message.user }),
      el("time", { text: clock(time) }),
      message.edited ? el("span", { text: "edited" }) : null
    ),
    el("div", { class: "text" }, ...mrkdwn(message.text)),
    message.reactions.length ? el("div", { class: "reactions", text: message.reactions.map((name) => `:${name}:`).join(" ") }) : ""
  );
}
function drawZendesk(body, { tickets }, changed) {
  list(body, tickets, (ticket) => ticket.id, createTicket, fillTicket, changed);
  if (changed && body.firstElementChild?.classList.contains("fresh")) body.scrollTop = 0;
}
function createTicket(ticket) {
  const node = el("details", { class: "ticket", data: { id: ticket.id } });
  node.summary = el("summary");
  node.comments = el("ol");
  node.append(node.summary, node.comments);
  return node;
}
function fillTicket(node, ticket) {
  const urgent = ticket.priority === "urgent" || ticket.priority === "high";
  node.summary.replaceChildren(
    el("span", { class: "subject" }, el("span", { class: "number", text: `#${ticket.id}` }), ` ${ticket.subject}`),
    el(
      "span",
      { class: "meta" },
      el("span", { class: "badge", data: { status: ticket.status }, text: ticket.status }),
      ticket.priority ? el("span", { class: urgent ? "urgent" : "", text: ticket.priority }) : null,
      el("span", { text: ticket.requester ?? "" }),
      ticket.unread ? el("span", { class: "unread", text: "unread" }) : null,
      el("time", { text: clock(ticket.updated_at) })
    )
  );
  node.comments.replaceChildren(
    ...ticket.comments.map(
      (comment) => el(
        "li",
        { class: comment.public ? "" : "internal" },
        el(
          "div",
          { class: "by" },
          el("strong", { text: comment.author ?? "unknown" }),
          el("time", { text: clock(comment.created_at) }),
          comment.public ? null : el("span", { text: "internal note" })
        ),
        el("div", { class: "text", text: comment.body })
      )
    )
  );
}

// packages/demo/src/demo.js
var SUGGESTIONS = [
  { text: "Summarise the unread tickets and alert #support" },
  { text: "How long does a refund take?" },
  { text: "Create a ticket about a broken export" },
  { text: "Show me ticket 103" },
  { label: "A slow answer", text: "[[sim tokens=200 pace_ms=60]] Tell me something long" },
  {
    label: "A provider that breaks off once",
    text: "[[sim tokens=80 pace_ms=30 cut_after=180 fail_times=1]] Try this"
  },
  { label: "A provider that is down", text: "[[sim status=500]] Are you there?" },
  { label: "A tool that fails", text: "Show me ticket 99999" },
  {
    label: "Wrong tool arguments",
    text: '[[sim tool=zendesk_get_ticket args={"ticket_id": "oops"} text="I need the number of a ticket to open it. Which one do you mean?"]] Show me ticket “oops”'
  }
];
var $ = (id) => document.getElementById(id);
var $$ = (selector) => document.querySelectorAll(selector);
var about;
var who;
var api;
var session;
var outbox = new Outbox(apiOf, {
  changed: drawAll,
  began(draft, conversation, sender) {
    if (isMe(sender)) list2.add(conversation);
    if (session.draft?.key === draft.key) location.replace(address(conversation.id));
  }
});
var panes = Object.entries({ slack: drawSlack, zendesk: drawZendesk }).map(
  ([name, draw2]) => new Pane({ body: $(name), state: $(`${name}-state`), where: () => about.sim[name], moved: readAbout, draw: draw2 })
);
var list2 = new List({
  parent: $("conversations"),
  more: $("more"),
  address: (id) => address(id),
  isOpen: (id) => id === session?.id,
  chosen: () => view("chat")
});
async function readAbout() {
  const answer = await fetch("demo.json", { signal: AbortSignal.timeout(5e3) });
  if (!answer.ok) throw new Error(await answer.text());
  about = await answer.json();
}
async function waitForAbout() {
  for (; ; ) {
    try {
      return await readAbout();
    } catch {
      banner("The demo is starting…", "away");
      await pause(500);
    }
  }
}
function apiOf({ tenant, user }) {
  const token = () => about.tenants[tenant].users[user];
  return new Api(token(), () => readAbout().then(token));
}
var isMe = ({ tenant, user }) => tenant === who.tenant && user === who.user;
var address = (conversation, { tenant, user } = who) => `#/${tenant}/${user}/${conversation ?? ""}`;
function route() {
  let [, tenant, user, conversation] = location.hash.split("/");
  if (!about.tenants[tenant]?.users[user]) {
    [tenant, conversation] = [Object.keys(about.tenants)[0], null];
    user = Object.keys(about.tenants[tenant].users)[0];
  }
  if (who?.tenant !== tenant || who?.user !== user) {
    who = { tenant, user };
    api = apiOf(who);
    options($("tenant"), Object.keys(about.tenants), tenant);
    options($("user"), Object.keys(about.tenants[tenant].users), user);
    list2.of(api);
    for (const pane of panes) pane.show(tenant);
    session?.abort.abort();
    session = null;
    outbox.deliver();
  }
  if (!session || session.id !== (conversation || null)) open(conversation || null);
}
function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => el("option", { value: name, text: name })));
  select.value = chosen;
}
function open(id) {
  session?.abort.abort();
  session?.source?.close();
  session = {
    id,
    title: null,
    turns: /* @__PURE__ */ new Map(),
    changed: /* @__PURE__ */ new Set(),
    history: null,
    abort: new AbortController(),
    failures: 0
  };
  atEnd = true;
  view("chat");
  connection("idle");
  drawAll();
  if (id) sync(session);
  else if (matchMedia("(min-width: 760px)").matches) $("input").focus();
}
async function sync(mine) {
  const { signal } = mine.abort;
  if (mine.syncing) return;
  mine.syncing = true;
  mine.source?.close();
  connection(mine.failures ? "reconnecting" : "connecting");
  const path = `/v1/conversations/${mine.id}`;
  const away = () => connection("reconnecting");
  try {
    const conversation = await api.insist("GET", path, { signal }, away);
    const history = new History(api, mine.id);
    const turns = await history.earlier(signal);
    const { ticket } = await api.insist(
      "POST",
      "/v1/stream-tickets",
      { body: { conversation_id: mine.id }, signal },
      away
    );
    if (signal.aborted) return;
    Object.assign(mine, { title: conversation.title, history, turns: new Map(turns.map((turn) => [turn.id, turn])) });
    follow(mine, `${path}/events?${new URLSearchParams({ after: String(history.lastSeq), ticket })}`);
    drawAll();
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 404) return gone("This conversation does not exist, or is not yours.");
    problem(refusal(error));
    again(mine);
  } finally {
    mine.syncing = false;
  }
}
function follow(mine, url) {
  const source = new EventSource(url);
  mine.source = source;
  mine.abort.signal.addEventListener("abort", () => source.close());
  source.onopen = () => {
    mine.failures = 0;
    connection("live");
  };
  source.onerror = () => {
    connection("reconnecting");
    if (source.readyState === EventSource.CLOSED) again(mine);
  };
  for (const type of EVENTS) {
    source.addEventListener(type, (event) => take(mine, type, JSON.parse(event.data)));
  }
}
async function again(mine) {
  mine.failures++;
  await pause(Math.min(500 * 2 ** mine.failures, 5e3), mine.abort.signal).then(
    () => sync(mine),
    () => {
    }
  );
}
function take(mine, type, data) {
  if (type === "conversation.erased") return gone("This conversation was deleted.");
  if (type === "conversation.titled") {
    mine.title = data.title;
    list2.refresh(LAG);
    return drawAll();
  }
  let turn = data.turn_id ? mine.turns.get(data.turn_id) : [...mine.turns.values()].at(-1);
  if (!turn && type === "turn.queued") {
    turn = new Turn(data.turn_id, data.seq, data.input, data.metadata);
    mine.turns.set(turn.id, turn);
  }
  if (!turn) return;
  turn.apply(type, data);
  if (type === "message.completed" && data.text) announce(`Copilot: ${data.text}`);
  if (type === "approval.requested") announce(`Your decision is needed: ${toolName(data.name)}`);
  if (type === "turn.failed") announce(failure(data.code));
  if (turn.ended || type === "turn.queued") list2.refresh(LAG);
  draw(turn);
}
function gone(message) {
  problem(message);
  location.replace(address(null));
}
function connection(state) {
  const words2 = { idle: "", connecting: "Connecting…", live: "Live", reconnecting: "Reconnecting…" };
  $("connection").dataset.state = state;
  setText($("connection"), words2[state]);
  if (state === "reconnecting")
    banner("The connection is lost. Reconnecting… What was accepted goes on, and nothing is shown twice.", "away");
  else if ($("banner").dataset.kind === "away") $("banner").hidden = true;
}
function banner(text, kind) {
  Object.assign($("banner"), { hidden: false }).dataset.kind = kind;
  setText($("banner"), text);
}
var problemTimer;
function problem(text) {
  banner(text, "problem");
  clearTimeout(problemTimer);
  problemTimer = setTimeout(() => $("banner").dataset.kind === "problem" ? $("banner").hidden = true : null, 8e3);
}
var announce = (text) => setText($("announce"), text);
function send(text) {
  if (!text.trim()) return;
  if (!session.id) session.draft ??= { key: crypto.randomUUID(), title: titleOf(text) };
  atEnd = true;
  outbox.add({
    who,
    conversation: session.id,
    draft: session.draft,
    text,
    whenBusy: $("busy").hidden ? "enqueue" : $("when-busy").value
  });
}
function titleOf(text) {
  const plain = text.replace(/\[\[sim.*?\]\]/gs, "").trim().split("\n")[0] || "Conversation";
  return plain.length > 60 ? `${plain.slice(0, 59)}…` : plain;
}
var actions = {
  async cancel(turn) {
    try {
      await api.insist("POST", `/v1/turns/${turn.id}/cancel`);
    } catch (error) {
      problem(refusal(error));
    }
  },
  /** A decision may be repeated: an equal one changes nothing. */
  async decide(turn, call, decision, edited) {
    await api.insist("POST", `/v1/turns/${turn.id}/approvals/${call.id}`, {
      body: { decision, ...edited && { arguments: edited } }
    });
  },
  async feedback(turn, rating) {
    try {
      await api.insist("POST", `/v1/turns/${turn.id}/feedback`, { body: { rating } });
      turn.rating = rating;
      draw(turn);
      announce("Thank you for the feedback.");
    } catch (error) {
      problem(refusal(error));
    }
  },
  retry: (turn) => send(turn.input)
};
async function rename(title) {
  const mine = session;
  try {
    const changed = await api.insist("PATCH", `/v1/conversations/${mine.id}`, { body: { title } });
    mine.title = changed.title;
    list2.change(changed);
  } catch (error) {
    problem(refusal(error));
  }
  drawAll();
}
async function erase() {
  const { id } = session;
  try {
    await api.call("DELETE", `/v1/conversations/${id}`);
    list2.remove(id);
    location.hash = address(null);
  } catch (error) {
    problem(refusal(error));
  }
}
var atEnd = true;
var frame = null;
function draw(turn) {
  session.changed.add(turn);
  frame ??= requestAnimationFrame(drawTurns);
}
function drawAll() {
  if (!session) return;
  for (const turn of session.turns.values()) session.changed.add(turn);
  setText($("title"), session.id ? session.title ?? "Conversation" : "New conversation");
  document.title = session.title ? `${session.title} · copilotd demo` : "copilotd demo";
  $("tools").hidden = !session.id;
  $("earlier").hidden = !session.history?.more;
  list2.draw();
  frame ??= requestAnimationFrame(drawTurns);
}
function drawTurns() {
  frame = null;
  const turns = [...session.turns.values()].sort((a, b) => a.seq - b.seq);
  const queued = turns.filter((turn) => turn.status === "queued");
  for (const turn of queued) session.changed.add(turn);
  keyed(
    $("turns"),
    turns,
    (turn) => turn.id,
    (turn) => {
      session.changed.add(turn);
      return createTurn(turn, actions);
    },
    (node, turn) => {
      if (session.changed.has(turn)) updateTurn(node, turn, queued.indexOf(turn) + 1);
    }
  );
  session.changed.clear();
  drawOutbox(turns);
  const busy = turns.some((turn) => !turn.ended);
  $("busy").hidden = !busy;
  if (!busy) $("when-busy").value = "enqueue";
  $("stop").hidden = !turns.some((turn) => !turn.ended && turn.status !== "queued");
  $("scroll").setAttribute("aria-busy", String(busy));
  $("welcome").hidden = Boolean(session.id) || $("outbox").children.length > 0;
  if (atEnd) $("scroll").scrollTop = $("scroll").scrollHeight;
}
function drawOutbox(turns) {
  outbox.settle(new Set(turns.map((turn) => turn.metadata?.send)));
  const isHere = ({ conversation, draft }) => conversation ? conversation === session.id : draft.key === session.draft?.key;
  const here = outbox.entries.filter((entry) => isMe(entry.who) && isHere(entry));
  outbox.draw($("outbox"), here, send);
}
function listen() {
  addEventListener("hashchange", route);
  addEventListener("online", () => session.id && $("connection").dataset.state !== "live" && sync(session));
  $("tenant").onchange = () => location.hash = `#/${$("tenant").value}/${who.user}/`;
  $("user").onchange = () => location.hash = `#/${who.tenant}/${$("user").value}/`;
  $("new").onclick = () => session.id ? location.hash = address(null) : open(null);
  $("more").onclick = () => list2.older().catch((error) => problem(refusal(error)));
  $("earlier").onclick = earlier;
  const input = $("input");
  const fit = () => {
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight, 200)}px`;
  };
  input.oninput = fit;
  input.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("composer").requestSubmit();
    }
  };
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    send(input.value);
    input.value = "";
    fit();
  };
  $("stop").onclick = () => {
    for (const turn of session.turns.values()) if (!turn.ended && turn.status !== "queued") actions.cancel(turn);
  };
  $("rename").onclick = () => renaming(true);
  $("rename-form").onsubmit = (event) => {
    event.preventDefault();
    const title = $("rename-input").value.trim();
    renaming(false);
    if (title) rename(title);
  };
  $("rename-input").onkeydown = (event) => {
    if (event.key === "Escape") renaming(false);
  };
  $("delete").onclick = () => $("confirm").showModal();
  $("confirm").onclose = () => {
    if ($("confirm").returnValue === "delete") erase();
    $("confirm").returnValue = "";
  };
  const scroll = $("scroll");
  scroll.onscroll = () => {
    atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
    $("latest").hidden = atEnd;
  };
  new ResizeObserver(() => atEnd && (scroll.scrollTop = scroll.scrollHeight)).observe(scroll);
  $("latest").onclick = () => scroll.scrollTo({ top: scroll.scrollHeight });
  for (const button of $$("[data-to]")) {
    button.onclick = () => view(button.dataset.to);
  }
  setInterval(() => {
    for (const node of $$(".timer"))
      setText(node, (node.dataset.before ?? "") + left(node.dataset.until));
  }, 1e3);
  setInterval(() => document.hidden || list2.refresh(), 15e3);
}
function view(name) {
  document.body.dataset.view = name;
  for (const button of $$("[data-to]")) {
    button.setAttribute("aria-pressed", String(button.dataset.to === name));
    if (button.dataset.to === name) button.querySelector(".dot")?.setAttribute("hidden", "");
  }
}
function renaming(on) {
  $("rename-form").hidden = !on;
  $("title").hidden = $("tools").hidden = on;
  if (on) {
    $("rename-input").value = session.title ?? "";
    $("rename-input").select();
  } else $("rename").focus();
}
async function earlier() {
  const mine = session;
  const height = $("scroll").scrollHeight;
  for (const turn of await mine.history.earlier(mine.abort.signal)) {
    if (!mine.turns.has(turn.id)) mine.turns.set(turn.id, turn);
  }
  if (mine !== session) return;
  drawAll();
  requestAnimationFrame(() => $("scroll").scrollTop += $("scroll").scrollHeight - height);
}
function suggest() {
  const usable = SUGGESTIONS.filter(({ text }) => about.simulated_model || !text.includes("[[sim"));
  $("suggestions").replaceChildren(
    ...usable.map(
      ({ label, text }) => el("button", { type: "button", title: text, text: label ?? text, onclick: () => send(text) })
    )
  );
}
async function start() {
  await waitForAbout();
  $("banner").hidden = true;
  listen();
  suggest();
  route();
  if (!session.id) session.draft = outbox.entries.find((entry) => isMe(entry.who) && !entry.conversation)?.draft;
  const changed = () => document.body.dataset.view === "world" || document.querySelector(".dot").removeAttribute("hidden");
  for (const pane of panes) pane.run(changed);
}
start().catch((error) => {
  console.error(error);
  problem("The page could not start. Please reload it.");
});
