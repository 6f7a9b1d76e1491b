// What went wrong, as the name of a sentence: what happened, and what to do. Never a code or a server's own words.

import type { Text } from "./messages/en.js";

/** Refusals of a request, by the problem's code. */
const REQUESTS: Readonly<Record<string, Text>> = {
  unreachable: "errorUnreachable",
  unauthenticated: "errorSignIn",
  forbidden: "errorForbidden",
  not_found: "errorGone",
  conflict: "errorConflict",
  not_waiting: "errorDecided",
  turn_running: "errorRunning",
  queue_full: "errorQueueFull",
  outbox_full: "errorQueueFull",
  too_large: "errorTooLong",
  invalid: "errorInvalid",
  malformed: "errorInvalid",
  quota_exceeded: "errorQuota",
  budget_exhausted: "errorBudget",
  rate_limited: "errorTooFast",
  overloaded: "errorBusy",
  unavailable: "errorBusy",
  timeout: "errorTimeout",
  outcome_unknown: "errorUnknownOutcome",
};

/** Failures of a turn, by its error's code. */
const TURNS: Readonly<Record<string, Text>> = {
  provider_unavailable: "failedProvider",
  provider_rejected: "failedRejected",
  content_policy: "failedPolicy",
  context_too_long: "failedTooLong",
  guardrail_blocked: "failedGuardrail",
  schema_failed: "failedAgain",
  limit_steps: "failedLimit",
  limit_cost: "failedLimit",
  limit_time: "failedLimit",
  rate_limited: "errorTooFast",
  budget_exhausted: "errorBudget",
  attempts_exhausted: "failedAgain",
};

export interface Sentence {
  readonly text: Text;
  /** To be told to whoever looks into it; only where the sentence alone does not say what is wrong. */
  readonly id?: string | undefined;
}

const find = (table: Readonly<Record<string, Text>>, code: string): Text | undefined =>
  Object.hasOwn(table, code) ? table[code] : undefined;

/** The sentence for a request that failed. */
export function sentenceOf(error: unknown): Sentence {
  const { code, requestId } = (typeof error === "object" && error ? error : {}) as Record<string, unknown>;
  const text = typeof code === "string" ? find(REQUESTS, code) : undefined;
  if (text) return { text };
  return { text: "errorGeneral", id: typeof requestId === "string" ? requestId : undefined };
}

/** The sentence for a turn that failed; `id` is the turn's. */
export function failureOf(code: string, id: string): Sentence {
  const text = find(TURNS, code);
  return text ? { text } : { text: "errorGeneral", id };
}
