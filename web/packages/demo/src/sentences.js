// What goes wrong, in sentences that a customer may read: what happened, and what to do. No codes, no JSON, nothing internal.

const SORRY = "Something went wrong on our side. Please try again. If it happens again, tell your administrator.";

/** Refusals of a request, by the problem's code. */
const REFUSALS = {
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
  timeout: "This took too long to send. Please check your connection and try again.",
};

/** Failures of a turn, by its error's code. */
const FAILURES = {
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
  attempts_exhausted: "The work on this answer was interrupted several times. Please ask again.",
};

const WAITS = {
  provider_rate_limit: "The model is busy; the answer goes on in",
  provider_unavailable: "The model does not answer; the next try is in",
  limit: "Many questions are being answered; this one goes on in",
};

const BROKEN_OFF = "The answer was interrupted";

/** Why an open answer was taken back. */
const RESETS = {
  recovered: "The server was restarted in mid-answer; the answer begins again",
  response_schema: "The answer did not fit its form; the model was asked again",
  guardrail: "A safety rule took the answer back",
};

export const reset = (reason) => RESETS[reason] ?? BROKEN_OFF;
export const failure = (code) => FAILURES[code] ?? SORRY;
export const wait = (reason) => WAITS[reason] ?? "Waiting; it goes on in";

/** Says what a request that failed means for whoever made it. */
export function refusal(error) {
  if (error.code === "rate_limited") {
    const seconds = Math.ceil(error.retryAfter ?? 0);
    const when = seconds > 1 ? `in ${seconds} seconds` : "in a moment";
    return `That was too much at once. Please try again ${when}.`;
  }
  // An error of the page's own says a sentence; what the browser throws does not.
  return REFUSALS[error.code] ?? (error.constructor === Error ? error.message : SORRY);
}

/** Says what a call of a tool came to that did not succeed. */
export function outcome({ name, status }) {
  const system = name.split("_")[0].replace(/^./, (first) => first.toUpperCase());
  const isReading = /_(search|get|list|find)_/.test(name);
  if (status === "rejected") return "Nobody allowed this, so it was not done.";
  if (status === "cancelled") return "This was stopped before it was done.";
  if (status === "unknown")
    return `It is not certain whether this was done. Please look in ${system} before you ask for it again.`;
  if (isReading) return `${system} could not show this. Please check what you asked for, and ask again.`;
  return `${system} did not accept this, and nothing was changed. Please check the details, and ask again.`;
}

/** Says which of the fields that a person edited have to be looked at again. */
export function fields(error, given = {}) {
  const names = (error.errors ?? []).map(({ pointer }) => (pointer ?? "").split("/").filter(Boolean));
  const known = names.filter((name) => name.length).map((name) => name.find((part) => part in given) ?? name.at(-1));
  if (!known.length) return refusal(error);
  const say = (name) => {
    const shown = `“${name.replaceAll("_", " ")}”`;
    return given[name] === "" ? `Please fill in ${shown}.` : `Please check ${shown}: this is not possible there.`;
  };
  return [...new Set(known)].map(say).join("\n");
}
