// What the activity strip says of a turn: short lines for developers, out of the turn's state.

import { clock } from "../time.js";

const STATUS = {
  queued: "queued",
  running: "running",
  awaiting_approval: "waits for an approval",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled",
};

/** Names a tool: `zendesk_create_ticket` is “Zendesk: create ticket”. */
export function toolName(name) {
  const [system, ...rest] = name.split("_");
  const title = system.replace(/^./, (first) => first.toUpperCase());
  return rest.length ? `${title}: ${rest.join(" ")}` : title;
}

/** Says what a turn is doing; `position` is its place among those that wait, from 1. */
export function statusOf(turn, position = 0) {
  if (turn.status === "queued") return position ? `queued, number ${position} in line` : "queued";
  const said = STATUS[turn.status] ?? turn.status;
  return turn.attempt > 1 ? `${said}, attempt ${turn.attempt}` : said;
}

const WAITS = {
  provider_rate_limit: "the provider limits the rate; goes on in",
  provider_unavailable: "the provider does not answer; next try in",
  limit: "a limit is reached; goes on in",
};

/** Says why a turn waits; the time follows. */
export const waitOf = ({ reason }) => WAITS[reason] ?? "waits; goes on in";

const RESETS = {
  recovered: "the server was restarted in mid-answer; the answer begins again",
  response_schema: "the answer did not fit its schema; the model was asked again",
  guardrail: "a guardrail took the answer back",
  stopped: "the answer was stopped",
};

const ACTIONS = {
  allow: "noted it",
  redact: "took something out",
  block: "stopped it",
  repair: "sent it back to the model",
};

/** Says what a notice tells. */
export function noticeOf({ event }) {
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

/** Says the state of a tool call, and who decided. */
export function callOf(call) {
  const said = call.status.replaceAll("_", " ");
  if (!call.decision) return said;
  if (call.decision === "expired") return `${said}; the approval expired`;
  return `${said}; ${call.decision} by ${call.decidedBy}`;
}

/** What a turn has cost, as label and value. */
export function figures({ usage, firstTokenMs, finishedAt }) {
  if (!usage?.prompt_tokens) return [];
  const cached = usage.cached_tokens ? ` (${count(usage.cached_tokens)} cached)` : "";
  return [
    ["tokens in", `${count(usage.prompt_tokens)}${cached}`],
    ["tokens out", count(usage.completion_tokens)],
    ["cost", usage.cost_usd ? `$${usage.cost_usd.toFixed(4)}` : null],
    ["model", usage.models.join(", ") || null],
    ["first word", typeof firstTokenMs === "number" ? `${(firstTokenMs / 1000).toFixed(1)} s` : null],
    ["finished", finishedAt ? clock(finishedAt) : null],
  ].filter(([, value]) => value !== null);
}

const count = (number) => number.toLocaleString("en");

/** Shows arguments or a result: JSON if it is JSON, else as it is. Long ones are cut; the API has them whole. */
export function shown(value, limit = 20_000) {
  if (value === undefined || value === null) return "";
  let text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  if (typeof value === "string") {
    try {
      text = JSON.stringify(JSON.parse(value), null, 2);
    } catch {
      // A text, which it stays.
    }
  }
  return text.length > limit ? `${text.slice(0, limit)}\n… (${count(text.length - limit)} more characters)` : text;
}
