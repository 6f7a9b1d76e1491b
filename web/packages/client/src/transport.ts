// Requests: the token, timeouts, and which of them are sent again.

import { abortable, backOff, linkSignals, type Backoff } from "./environment.js";
import { ConnectionError, CopilotdError, errorOf, isTransient } from "./errors.js";

/** What a client needs to reach the server. */
export interface TransportOptions {
  /** The server's address; `/v1/…` is added to it. Empty: the page's own origin. */
  baseUrl: string;
  /**
   * Returns a user token. Called when the first one is needed and whenever the server refuses the present one, once for
   * all requests that wait for it.
   */
  token: () => string | Promise<string>;
  /** Used in place of the global `fetch`. */
  fetch?: typeof fetch;
  /** Headers of every request, such as `x-copilotd-user` beside an API key. */
  headers?: Record<string, string>;
  /** Milliseconds that one attempt of a request may take; 30,000 by default. */
  timeout?: number;
  /** How often a request is sent again; 4 by default. */
  retries?: number;
  /** The waits between attempts of requests and streams; at most 500 ms at first, at most 15 s later. */
  backoff?: Backoff;
}

export interface RequestOptions {
  /** Sent as JSON; a `FormData` as it is. */
  body?: unknown;
  /** `Idempotency-Key`. */
  key?: string | undefined;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  /** How often to send it again, if not as often as usual. */
  retries?: number;
  /** Milliseconds that one attempt may take, if not as long as usual. */
  timeout?: number;
}

/** A caller who waits for an answer should rather be told than wait for longer than this, in milliseconds. */
const LONGEST_WAIT = 30_000;

/** An answer whose body is unread. */
export interface Opened {
  response: Response;
  /** Ends the time limit: the body may take as long as it wants. */
  arrived: () => void;
  /** Frees what the request holds. Must be called. */
  done: () => void;
}

/** Sends requests as one caller. */
export class Transport {
  readonly backoff: Backoff;
  readonly #options: TransportOptions;
  readonly #fetch: typeof fetch;
  /** The token that is used until the server refuses it. */
  #token: string | undefined;
  #renewal: Promise<string> | undefined;

  constructor(options: TransportOptions) {
    this.#options = options;
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.backoff = options.backoff ?? { base: 500, cap: 15_000 };
  }

  /**
   * Sends a request and reads the answer's JSON; `undefined` if it has none. Sent again after failures that pass by
   * themselves. All requests of this client may be: reads, and writes whose repetition has no second effect, by their
   * nature or by their idempotency key.
   */
  async json<T>(method: string, path: string, options: RequestOptions = {}): Promise<T> {
    const retries = options.retries ?? this.#options.retries ?? 4;
    for (let failures = 0; ; failures++) {
      try {
        const { response, done } = await this.open(method, path, options);
        try {
          if (response.status === 204) return undefined as T;
          return (await response.json()) as T;
        } catch (error) {
          options.signal?.throwIfAborted();
          throw new ConnectionError("the answer broke off", error);
        } finally {
          done();
        }
      } catch (error) {
        if (!isTransient(error) || error.code === "queue_full" || failures >= retries) throw error;
        if ((error.retryAfter ?? 0) > LONGEST_WAIT) throw error;
        await backOff(failures, this.backoff, error.retryAfter, options.signal);
      }
    }
  }

  /**
   * Sends a request once, and once more with a new token if the server refuses the present one. Returns the answer
   * with its body unread; `signal` ends the reading too.
   */
  async open(method: string, path: string, options: RequestOptions = {}): Promise<Opened> {
    const { body, key, headers, signal } = options;
    const isForm = body instanceof FormData;
    const controller = new AbortController();
    const unlink = linkSignals(controller, signal);
    const timer = setTimeout(
      () => controller.abort(new ConnectionError("no answer in time")),
      options.timeout ?? this.#options.timeout ?? 30_000,
    );
    const arrived = () => clearTimeout(timer);
    const done = () => {
      arrived();
      unlink();
    };
    const send = (token: string) =>
      this.#fetch(this.url(path), {
        method,
        headers: {
          ...this.#options.headers,
          ...headers,
          authorization: `Bearer ${token}`,
          ...(body !== undefined && !isForm && { "content-type": "application/json" }),
          ...(key !== undefined && { "idempotency-key": key }),
        },
        ...(body !== undefined && { body: isForm ? body : JSON.stringify(body) }),
        // The token alone says who is calling.
        credentials: "omit",
        cache: "no-store",
        signal: controller.signal,
      });
    try {
      const token = this.#token ?? (await this.#renew(controller.signal));
      let response = await send(token);
      if (response.status === 401) {
        // Not awaited: a body that somebody has cloned ends with its twin only.
        response.body?.cancel().catch(() => {});
        // Another request may have renewed it meanwhile.
        const isNew = this.#token !== undefined && this.#token !== token;
        response = await send(isNew ? this.#token! : await this.#renew(controller.signal));
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
  url(path: string): string {
    return this.#options.baseUrl.replace(/\/+$/, "") + path;
  }

  /** One renewal for all who wait. A waiter may give up; the renewal goes on for the others. */
  #renew(signal: AbortSignal): Promise<string> {
    const renewal = (this.#renewal ??= Promise.resolve().then(this.#options.token));
    const forget = () => {
      if (this.#renewal === renewal) this.#renewal = undefined;
    };
    // One that takes too long is asked for again by the next request.
    signal.addEventListener("abort", forget);
    return abortable(
      renewal.then((token) => {
        this.#token = token;
        return token;
      }),
      signal,
    ).finally(() => {
      signal.removeEventListener("abort", forget);
      forget();
    });
  }
}
