// The list of a user's conversations.

import { clock, el, keyed, setText } from "./dom.js";

/** Conversations that are read at once. */
const PAGE = 30;
/** The server's lists may be behind by a second. */
export const LAG = 1100;

export class List {
  #timer;

  /** `parent` and `more` are nodes; `address` gives a link, `isOpen` tells which is open, `chosen` hears of a click. */
  constructor({ parent, more, address, isOpen, chosen }) {
    this.parent = parent;
    this.more = more;
    this.address = address;
    this.isOpen = isOpen;
    this.chosen = chosen;
    this.api = null;
    this.data = [];
    this.cursor = null;
    this.extended = false;
    this.deleted = new Set();
  }

  /** Begins anew with another caller. */
  of(api) {
    Object.assign(this, { api, data: [], cursor: null, extended: false });
    this.draw();
    this.refresh();
  }

  /** Reads the newest ones, after a delay. */
  refresh(delay = 0) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      const { api } = this;
      try {
        const page = await api.call("GET", `/v1/conversations?limit=${PAGE}`);
        if (api !== this.api) return;
        // Pages that were asked for stay below the first.
        const oldest = page.data.at(-1)?.created_at;
        const older = this.extended ? this.data.filter(({ created_at }) => created_at < oldest) : [];
        this.data = [...page.data, ...older];
        if (!this.extended) this.cursor = page.next_cursor;
        this.draw();
      } catch {
        this.refresh(3000);
      }
    }, delay);
  }

  /** Reads the page behind those that are shown. */
  async older() {
    const page = await this.api.insist(
      "GET",
      `/v1/conversations?${new URLSearchParams({ limit: String(PAGE), cursor: this.cursor })}`,
    );
    this.data.push(...page.data);
    Object.assign(this, { cursor: page.next_cursor, extended: true });
    this.draw();
  }

  add(conversation) {
    if (!this.data.some(({ id }) => id === conversation.id)) this.data.unshift(conversation);
    this.draw();
  }

  change(conversation) {
    this.data = this.data.map((known) => (known.id === conversation.id ? conversation : known));
    this.refresh(LAG);
  }

  remove(id) {
    this.deleted.add(id);
    this.draw();
  }

  draw() {
    const create = () =>
      el("li", {}, el("a", { onclick: this.chosen }, el("span", { class: "name" }), el("span", { class: "meta" })));
    const shown = this.data.filter(({ id }) => !this.deleted.has(id));
    keyed(
      this.parent,
      shown,
      ({ id }) => id,
      create,
      (node, conversation) => {
        const link = node.firstElementChild;
        link.href = this.address(conversation.id);
        if (this.isOpen(conversation.id)) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
        const turns = conversation.turn_count === 1 ? "1 turn" : `${conversation.turn_count} turns`;
        setText(link.firstElementChild, conversation.title ?? "Untitled");
        setText(link.lastElementChild, `${clock(conversation.updated_at)} · ${turns}`);
      },
    );
    this.more.hidden = !this.cursor;
  }
}
