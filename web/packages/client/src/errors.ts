// What can go wrong, one class for each problem code.

import type { Problem } from "./schema.js";

/** A code of a problem document (`docs/problems`). */
export type ProblemCode = Problem["code"];

/** What is known of an error. */
interface Facts {
  code: string;
  title: string;
  status?: number | undefined;
  detail?: string | undefined;
  requestId?: string | undefined;
  retry?: Problem["retry"] | undefined;
  retryAfter?: number | undefined;
  errors?: Problem["errors"] | undefined;
}

/** An error of the client. Every other class here extends it. */
export class CopilotdError extends Error {
  override readonly name: string = "CopilotdError";
  /** Stable code for programs: the problem's code, or one of this client's own. */
  declare readonly code: string;
  /** What is wrong, in general, for people. */
  declare readonly title: string;
  /** What is wrong in this case, for people. */
  declare readonly detail: string | undefined;
  /** The HTTP status; 0 if there was no answer. */
  declare readonly status: number;
  /** The request's id in the server's log. */
  declare readonly requestId: string | undefined;
  /** Whether the same request may be sent again; see the problem document's `retry`. */
  declare readonly retry: Problem["retry"];
  /** Milliseconds after which the server wants to be asked again. */
  declare readonly retryAfter: number | undefined;
  /** The faults of a body that breaks its schema. */
  declare readonly errors: Problem["errors"];

  constructor(facts: Facts, cause?: unknown) {
    super(facts.detail ?? facts.title, { cause });
    Object.assign(this, { status: 0, retry: "never" }, facts);
  }
}

export class BudgetExhaustedError extends CopilotdError {}
export class ConflictError extends CopilotdError {}
export class ForbiddenError extends CopilotdError {}
export class IdempotencyKeyReusedError extends CopilotdError {}
export class InternalError extends CopilotdError {}
export class InvalidError extends CopilotdError {}
export class MalformedError extends CopilotdError {}
export class MethodNotAllowedError extends CopilotdError {}
export class NotAcceptableError extends CopilotdError {}
export class NotFoundError extends CopilotdError {}
export class NotResumableError extends CopilotdError {}
export class NotWaitingError extends CopilotdError {}
export class OverloadedError extends CopilotdError {}
export class QueueFullError extends CopilotdError {}
export class QuotaExceededError extends CopilotdError {}
export class RateLimitedError extends CopilotdError {}
export class RequestTimeoutError extends CopilotdError {}
export class TooLargeError extends CopilotdError {}
export class TurnRunningError extends CopilotdError {}
export class UnauthenticatedError extends CopilotdError {}
export class UnavailableError extends CopilotdError {}
export class UnsupportedMediaTypeError extends CopilotdError {}

// A code that the schema gains fails to compile here until it has its class.
const CLASSES: Record<ProblemCode, typeof CopilotdError> = {
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
  unsupported_media_type: UnsupportedMediaTypeError,
};

/** There was no answer: no network, no server, or no answer in time (`code`: `unreachable`). */
export class ConnectionError extends CopilotdError {
  constructor(detail: string, cause?: unknown) {
    super({ code: "unreachable", title: "The server cannot be reached", detail, retry: "unsafe" }, cause);
  }
}

/** An answer that does not come from copilotd, such as the error page of a proxy (`code`: `unexpected_answer`). */
export class UnexpectedAnswerError extends CopilotdError {
  constructor(title: string, more: Partial<Facts> = {}, cause?: unknown) {
    super({ ...more, code: "unexpected_answer", title }, cause);
  }
}

/** The turn ended without an answer. `code` is the turn's error code, or `cancelled`. */
export class TurnFailedError extends CopilotdError {}

/** As many messages as the outbox may hold wait already (`code`: `outbox_full`). */
export class OutboxFullError extends CopilotdError {
  constructor() {
    super({ code: "outbox_full", title: "Too many messages are waiting" });
  }
}

/** Reads `Retry-After`, which is a number of seconds or a date, as milliseconds. */
export function retryAfterOf(value: string | null, now: number = Date.now()): number | undefined {
  if (!value) return undefined;
  const isDate = value.includes(":");
  const ms = isDate ? Date.parse(value) - now : /^ *\d+ *$/.test(value) ? Number(value) * 1000 : NaN;
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

/** Makes the error of an answer whose status is not a success. Reads the body. */
export async function errorOf(response: Response): Promise<CopilotdError> {
  const { status, headers } = response;
  const problem: Partial<Problem> | null = await response.json().catch(() => null);
  // From another origin, a page may read the header only if the server exposes it.
  const requestId = problem?.request_id ?? headers.get("x-request-id") ?? undefined;
  const facts = { status, requestId, retryAfter: retryAfterOf(headers.get("retry-after")) };
  if (typeof problem?.code !== "string" || typeof problem.title !== "string") {
    const retry = status >= 500 ? "unsafe" : "never";
    return new UnexpectedAnswerError(`Unexpected answer with status ${status}`, { ...facts, retry });
  }
  const { code, title, detail, retry, errors } = problem;
  const Class = Object.hasOwn(CLASSES, code) ? CLASSES[code] : CopilotdError;
  return new Class({ ...facts, code, title, detail, retry, errors });
}

/** Whether the same request may succeed a little later, by itself. */
export function isTransient(error: unknown): error is CopilotdError {
  if (!(error instanceof CopilotdError)) return false;
  // `budget_exhausted` ends with a period, not by waiting a little.
  return error.status === 0
    ? error.code === "unreachable"
    : error.status === 408 || error.status >= 500 || error.code === "rate_limited" || error.code === "queue_full";
}
