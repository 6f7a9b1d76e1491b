// Shows turns.

import { clock, el, icon, keyed, left, setText } from "./dom.js";
import { link, render } from "./markdown.js";
import * as sentences from "./sentences.js";

const STATUS = {
  proposed: "proposed",
  awaiting_approval: "needs approval",
  running: "running",
  succeeded: "done",
  failed: "failed",
  rejected: "rejected",
  cancelled: "cancelled",
  unknown: "outcome unknown",
};

/** Says a tool's name for people: `zendesk_get_ticket` is `Zendesk: get ticket`. */
export function toolName(name) {
  const [system, ...action] = name.split("_");
  return action.length ? `${system[0].toUpperCase()}${system.slice(1)}: ${action.join(" ")}` : name;
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
const brief = (value) =>
  value && typeof value === "object"
    ? Object.entries(value)
        .map(([key, part]) => `${key.replaceAll("_", " ")}: ${typeof part === "string" ? part : JSON.stringify(part)}`)
        .join(", ")
    : shown(value ?? "");

/** Makes the node of a turn. `actions`: cancel, decide, feedback, retry. */
export function createTurn(turn, actions) {
  const node = el("li", { class: "turn" });
  node.said = el("div", { class: "said" }, el("span", { class: "hidden", text: "You: " }), userText(turn.input));
  node.items = el("div", { class: "items" });
  node.status = el("div", { class: "status" });
  node.foot = el("div", { class: "foot" });
  node.actions = actions;
  node.append(
    node.said,
    el(
      "div",
      { class: "answer" },
      el("span", { class: "hidden", text: "Copilot: " }),
      node.items,
      node.status,
      node.foot,
    ),
  );
  return node;
}

/** Shows a user's words; a directive to the simulated provider is set apart. */
export function userText(text) {
  const parts = text.split(/(\[\[sim.*?\]\])/s).filter((part) => part.trim());
  const node = el("div", { class: "bubble" });
  for (const part of parts) {
    node.append(part.startsWith("[[sim") ? el("code", { text: part }) : el("span", { text: part.trim() }));
  }
  return node;
}

export function updateTurn(node, turn, position) {
  node.dataset.status = turn.state;
  keyed(
    node.items,
    turn.items.filter(visible).flatMap(withSources),
    (item) => item.id,
    (item) => create(item, turn, node.actions),
    update,
  );
  updateStatus(node, turn, position);
  updateFoot(node, turn);
}

/** A step that only called tools has said nothing. */
const visible = (item) => item.kind !== "message" || item.text !== "";

/** The sources of an answer stand below it, as an item of their own. */
function withSources(item) {
  if (!item.citations?.length) return [item];
  return [item, { kind: "sources", id: `${item.id}:sources`, citations: item.citations }];
}

function create(item, turn, actions) {
  if (item.kind === "sources") return sources(item.citations);
  if (item.kind === "note") return el("p", { class: "note", text: item.text });
  if (item.kind === "message") return el("div", { class: "message", data: { id: item.id } });
  return createCall(item, turn, actions);
}

function update(node, item) {
  if (item.kind === "message") {
    node.classList.toggle("open", !item.done);
    render(node, item.text);
  } else if (item.kind === "call") updateCall(node, item);
}

/** Lists what an answer cites: title, page and quote. The citations of an answer do not change. */
function sources(citations) {
  const source = ({ title, external_id, uri, page, quote }) => {
    const name = title || external_id || "Document";
    return el(
      "li",
      {},
      /^https?:\/\//i.test(uri ?? "") ? link(uri, name) : el("span", { text: name }),
      page ? el("span", { class: "page", text: `, page ${page}` }) : null,
      el("q", { text: quote }),
    );
  };
  return el("ol", { class: "sources", "aria-label": "Sources" }, ...citations.map(source));
}

function createCall(call, turn, actions) {
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
    node.outcome,
  );
  node.append(node.details, node.failure);
  node.decide = (decision, edited) => actions.decide(turn, call, decision, edited);
  return node;
}

function updateCall(node, call) {
  node.dataset.status = call.status;
  setText(node.brief, brief(call.arguments));
  setText(
    node.badge,
    call.decided && call.status !== "succeeded" ? call.decided : (STATUS[call.status] ?? call.status),
  );
  setText(node.given, shown(call.arguments));
  node.outcome.hidden = node.outcomeName.hidden = call.result === undefined || call.result === null;
  setText(node.outcomeName, "Result");
  if (!node.outcome.hidden) setText(node.outcome, shown(call.result));
  node.failure.hidden = !["failed", "rejected", "cancelled", "unknown"].includes(call.status);
  if (!node.failure.hidden) setText(node.failure, sentences.outcome(call));
  const asks = call.status === "awaiting_approval";
  if (asks && !node.approval) node.append((node.approval = approval(node, call)));
  if (!asks && node.approval) {
    const focused = node.approval.contains(document.activeElement);
    node.approval.remove();
    node.approval = null;
    // The buttons are gone; who used them goes on from here.
    if (focused) node.querySelector("summary").focus();
  }
  node.details.hidden = asks;
}

/** Asks for a decision. Arguments are shown for reading first, as fields once someone wants to change them. */
function approval(node, call) {
  const title = el("h4", { text: `${toolName(call.name)}?` });
  const timer = el("span", {
    class: "timer",
    data: { until: call.expiresAt, before: "expires in " },
    text: `expires in ${left(call.expiresAt)}`,
  });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const body = el("dl");
  for (const [key, value] of Object.entries(call.arguments)) {
    body.append(el("dt", { text: key.replaceAll("_", " ") }), el("dd", { text: shown(value) }));
  }
  let fields = null;
  const edit = el("button", {
    type: "button",
    class: "small",
    text: "Edit",
    onclick: () => {
      fields = Object.entries(call.arguments).map(([key, value]) => ({
        key,
        value,
        input: el("textarea", { rows: Math.min(8, shown(value).split("\n").length), "aria-label": key }),
      }));
      body.replaceChildren();
      for (const { key, value, input } of fields) {
        input.value = shown(value);
        body.append(el("dt", { text: key.replaceAll("_", " ") }), el("dd", {}, input));
      }
      edit.hidden = true;
      fields[0]?.input.focus();
    },
  });
  const decide = async (decision) => {
    const buttons = [...box.querySelectorAll("button")];
    problem.hidden = true;
    try {
      const edited = decision === "approve" && fields ? read(fields) : undefined;
      for (const button of buttons) button.disabled = true;
      await node.decide(decision, edited);
    } catch (error) {
      setText(problem, sentences.fields(error, written(fields)));
      problem.hidden = false;
      for (const button of buttons) button.disabled = false;
    }
  };
  const box = el(
    "div",
    { class: "approval", role: "group", "aria-label": `Approval: ${toolName(call.name)}` },
    el("div", { class: "head" }, title, timer),
    body,
    problem,
    el(
      "div",
      { class: "buttons" },
      el("button", { type: "button", class: "primary", text: "Approve", onclick: () => decide("approve") }),
      edit,
      el("button", { type: "button", class: "small", text: "Reject", onclick: () => decide("reject") }),
    ),
  );
  return box;
}

/** What a person wrote into the fields, by their names. */
const written = (fields) => Object.fromEntries((fields ?? []).map(({ key, input }) => [key, input.value.trim()]));

/** Reads the fields back. Text stays text; what was something else has to be JSON. */
function read(fields) {
  const entries = fields.map(({ key, value, input }) => {
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
      text: turn.state === "queued" ? "Remove from the queue" : "Cancel",
    }),
  );
}

function statusLine(turn, position) {
  if (turn.waiting) return sentences.wait(turn.waiting.reason);
  if (turn.state === "queued") return position ? `Queued, number ${position} in line` : "Queued";
  if (turn.state === "awaiting_approval") return "Waiting for your decision";
  if (turn.calls().some((call) => call.status === "running")) return "Using tools";
  const again = turn.attempt > 1 ? `, attempt ${turn.attempt}` : "";
  return (turn.open?.text ? "Answering" : "Thinking") + again;
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
        el("p", { text: sentences.failure(turn.error.code) }),
        el(
          "button",
          { type: "button", class: "small", onclick: () => node.actions.retry(turn) },
          icon("retry"),
          "Ask again",
        ),
      ),
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
      onclick: () => node.actions.feedback(turn, rating),
    },
    icon(name),
  );
}

function usage({ usage: used, firstTokenMs, finishedAt }) {
  const count = (number) => number.toLocaleString();
  const cached = used.cached_tokens ? ` (${count(used.cached_tokens)} cached)` : "";
  return [
    `${count(used.prompt_tokens)} tokens in${cached}, ${count(used.completion_tokens)} out`,
    used.cost_usd ? `$${used.cost_usd.toFixed(4)}` : null,
    firstTokenMs === null || firstTokenMs === undefined
      ? null
      : `first word after ${(firstTokenMs / 1000).toFixed(1)} s`,
    used.models.join(", ") || null,
    finishedAt ? clock(finishedAt) : null,
  ]
    .filter(Boolean)
    .join(" · ");
}
