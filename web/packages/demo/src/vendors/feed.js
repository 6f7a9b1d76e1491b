// Polls one tenant's account at a simulated vendor, through the demo's own server.

import { pause } from "../time.js";

const PERIOD = 1000;
const TIMEOUT = 5000;

export class Feed {
  #system;
  #news;
  #state;
  #account = null;
  #version = 0;

  /**
   * `news(view, isFirst)` hears of each new view of the account; `state(isReachable)` whether the vendor answers.
   * @param {"zendesk" | "slack"} system
   * @param {{ news: (view: any, isFirst: boolean) => void, state: (isReachable: boolean) => void }} listeners
   */
  constructor(system, { news, state }) {
    this.#system = system;
    this.#news = news;
    this.#state = state;
  }

  /** Follows another tenant's account. */
  follow(account) {
    if (account === this.#account) return;
    this.#account = account;
    this.#version = 0;
    this.poll();
  }

  async run() {
    for (;;) {
      if (!document.hidden && this.#account) await this.poll();
      await pause(PERIOD);
    }
  }

  /** Asks once. */
  async poll() {
    const [account, version] = [this.#account, this.#version];
    // Another tenant may be chosen while the answer comes, or the same news drawn.
    const isStale = () => account !== this.#account || version !== this.#version;
    try {
      const query = new URLSearchParams({ account, after: String(version) });
      const answer = await fetch(`demo/${this.#system}/changes?${query}`, { signal: AbortSignal.timeout(TIMEOUT) });
      if (!answer.ok) throw new Error(`the demo answered ${answer.status}`);
      const view = await answer.json();
      if (isStale()) return;
      this.#state(true);
      if (!view.changed) return;
      this.#version = view.version;
      this.#news(view, version === 0);
    } catch {
      if (isStale()) return;
      this.#state(false);
    }
  }
}

/** Keeps which items of a list are new or differ from the last time, by their keys. */
export class Changes {
  #known = new Map();

  /** Forgets all: another account is shown. */
  clear() {
    this.#known.clear();
  }

  /** Returns the keys of items that are new or differ. At the first time, nothing is new. */
  of(items, key) {
    const isFirst = this.#known.size === 0;
    const fresh = new Set();
    const known = new Map();
    for (const item of items) {
      const [id, source] = [key(item), JSON.stringify(item)];
      if (!isFirst && this.#known.get(id) !== source) fresh.add(id);
      known.set(id, source);
    }
    this.#known = known;
    return fresh;
  }
}
