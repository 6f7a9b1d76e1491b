// What a browser, a worker and Node have in common, and what only some of them have.

/** A random id for idempotency keys. Pages without TLS have no `crypto.randomUUID`. */
export function randomId(): string {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Calls back when it is worth trying again at once: the network is back (`isNetwork`), or the page is looked at again.
 * Returns a function that ends this.
 */
export function onWake(callback: (isNetwork: boolean) => void): () => void {
  const ended = new AbortController();
  const options = { signal: ended.signal };
  const page = globalThis.document as Document | undefined;
  const visible = () => page?.visibilityState !== "hidden" && callback(false);
  // Node has none.
  const listen = (globalThis as Partial<typeof globalThis>).addEventListener;
  listen?.("online", () => callback(true), options);
  listen?.("pageshow", visible, options);
  page?.addEventListener("visibilitychange", visible, options);
  return () => ended.abort();
}

/**
 * Waits; with `canWake` no longer than until it is worth trying at once. Rejects with the signal's reason when that
 * aborts.
 */
export function pause(ms: number, signal: AbortSignal | undefined, canWake: boolean): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stopWaking: (() => void) | undefined;
  const waited = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
    if (canWake) stopWaking = onWake(() => resolve());
  });
  return abortable(waited, signal).finally(() => {
    clearTimeout(timer);
    stopWaking?.();
  });
}

/** Waits for a promise as long as the signal does not abort. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  const controller = new AbortController();
  const unlink = linkSignals(controller, signal);
  return new Promise<T>((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    controller.signal.addEventListener("abort", () => reject(signal!.reason));
    promise.then(resolve, reject);
  }).finally(unlink);
}

/** How long to wait between attempts. */
export interface Backoff {
  /** The first wait is at most this long, in milliseconds. */
  base: number;
  /** No wait is longer, in milliseconds. */
  cap: number;
}

/**
 * The wait before the next attempt: doubles with each failure up to the cap, and any time between a tenth of that and
 * all of it, so that the clients of a server that restarts do not come back together ("full jitter"). What the server
 * asked for is waited out in any case, up to five minutes.
 */
export function delayOf(failures: number, { base, cap }: Backoff, retryAfter = 0, random = Math.random): number {
  const most = Math.min(cap, base * 2 ** Math.min(failures, 20));
  return Math.min(retryAfter, 300_000) + most * (0.1 + 0.9 * random());
}

/** Aborts the controller with the signal. Returns a function that ends this. */
export function linkSignals(controller: AbortController, signal: AbortSignal | undefined): () => void {
  if (!signal) return () => {};
  if (signal.aborted) controller.abort(signal.reason);
  const abort = () => controller.abort(signal.reason);
  signal.addEventListener("abort", abort);
  return () => signal.removeEventListener("abort", abort);
}

/**
 * Waits before the next attempt. A wait that the server asked for (`retryAfter`, in milliseconds) is not cut short.
 */
export function backOff(failures: number, backoff: Backoff, retryAfter?: number, signal?: AbortSignal): Promise<void> {
  return pause(delayOf(failures, backoff, retryAfter), signal, !retryAfter);
}
