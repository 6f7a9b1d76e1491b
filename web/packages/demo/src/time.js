// Waiting, and saying times.

/** Waits; rejects when the signal aborts. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** Says a time of day, with the date unless it is today. */
export function clock(time, now = new Date()) {
  const date = new Date(time);
  const today = date.toDateString() === now.toDateString();
  /** @type {Intl.DateTimeFormatOptions} */
  const hours = { hour: "2-digit", minute: "2-digit" };
  return date.toLocaleString([], today ? hours : { ...hours, month: "short", day: "numeric" });
}

/** Says how long it is until a time: `59:12`. */
export function left(until, now = Date.now()) {
  const seconds = Math.max(0, Math.round((new Date(until).getTime() - now) / 1000));
  const pad = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return (hours ? `${hours}:${pad(minutes)}` : `${minutes}`) + `:${pad(seconds % 60)}`;
}
