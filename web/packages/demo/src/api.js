// Calls of copilotd's HTTP interface.

/** A refusal (a problem document), or no answer at all (`status` 0). */
export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail || problem.title || "The server cannot be reached.");
    this.status = status;
    this.code = problem.code ?? (status ? `http_${status}` : "unreachable");
    this.errors = problem.errors ?? [];
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may simply be sent again, because the server was away or too busy to look at it. */
  get passing() {
    return this.status === 0 || this.status === 408 || this.status >= 502;
  }
}

/** Waits; rejects when the signal aborts. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/**
 * What may come with a call: a body, an idempotency key, and a signal that ends it.
 * @typedef {{ body?: unknown, key?: string, signal?: AbortSignal }} Options
 */

/** A caller. */
export class Api {
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
    throw new ApiError(response.status, json, Number(response.headers.get("retry-after")) || undefined);
  }

  /**
   * Calls until there is an answer. Only for what may be repeated: reads, and what bears an idempotency key.
   * `waiting` hears of each attempt that failed.
   * @param {string} method
   * @param {string} path
   * @param {Options} options
   * @param {(error: ApiError) => void} waiting
   */
  async insist(method, path, options = {}, waiting = () => {}) {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.call(method, path, options);
      } catch (error) {
        if (!(error instanceof ApiError) || !error.passing) throw error;
        waiting(error);
        await pause(error.retryAfter ? error.retryAfter * 1000 : Math.min(500 * 2 ** attempt, 4000), options.signal);
      }
    }
  }

  async #send(method, path, body, key, signal) {
    const headers = { authorization: `Bearer ${this.token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (key) headers["idempotency-key"] = key;
    try {
      return await fetch(path, {
        method,
        headers,
        signal,
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, {});
    }
  }
}
