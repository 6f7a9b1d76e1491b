// The user's conversations, newest first, as the server lists them.

/** Conversations that are read at once. */
const PAGE = 30;
/** Conversations that are kept: a page that is left open must not grow for ever. */
const MOST = 600;

export class Conversations {
  #changed;
  #copilotd = null;
  #data = [];
  #cursor = null;
  #isExtended = false;
  /** Ids that are deleted; the server's list may be behind by a second. */
  #deleted = new Set();
  #timer;
  /** For whom the list is being read. */
  #reading = null;

  /** `changed` is called after every change. */
  constructor(changed) {
    this.#changed = changed;
  }

  /** Begins anew as another user. */
  of(copilotd) {
    this.#copilotd = copilotd;
    this.#data = [];
    this.#cursor = null;
    this.#isExtended = false;
    this.#deleted.clear();
    this.#changed();
    this.refresh();
  }

  all() {
    return this.#data.filter(({ id }) => !this.#deleted.has(id));
  }

  /** The one that changed last. */
  newest() {
    return this.all().reduce((best, next) => (!best || next.updated_at > best.updated_at ? next : best), undefined);
  }

  get hasMore() {
    return Boolean(this.#cursor) && this.#data.length < MOST;
  }

  /** Reads the newest ones, after a delay. */
  refresh(delay = 0) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      const copilotd = this.#copilotd;
      // While the server is away the client tries for a while; one reader is enough.
      if (this.#reading === copilotd) return;
      this.#reading = copilotd;
      try {
        const page = await copilotd.conversations.list({ limit: PAGE });
        if (copilotd !== this.#copilotd) return;
        const ids = new Set(page.data.map(({ id }) => id));
        // Pages that were asked for stay below the first.
        const oldest = page.data.at(-1)?.created_at;
        const older = this.#isExtended
          ? this.#data.filter(({ id, created_at: at }) => !ids.has(id) && at <= oldest)
          : [];
        this.#data = [...page.data, ...older];
        if (!this.#isExtended) this.#cursor = page.next_cursor;
        this.#changed();
      } catch {
        // The server is away; the next poll asks again.
      } finally {
        if (this.#reading === copilotd) this.#reading = null;
      }
    }, delay);
  }

  /** Reads the page behind those that are shown. */
  async older() {
    const copilotd = this.#copilotd;
    const page = await copilotd.conversations.list({ limit: PAGE, cursor: this.#cursor });
    if (copilotd !== this.#copilotd) return;
    const known = new Set(this.#data.map(({ id }) => id));
    this.#data.push(...page.data.filter(({ id }) => !known.has(id)));
    this.#cursor = page.next_cursor;
    this.#isExtended = true;
    this.#changed();
  }

  /** Leaves out a conversation that is gone. */
  forget(id) {
    if (this.#deleted.has(id)) return;
    this.#deleted.add(id);
    this.#changed();
  }
}
