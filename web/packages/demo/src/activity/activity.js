// The strip under the product page: the user's conversations, and what happens in one of them while the copilot works.
//
// It shows the conversation that was chosen here or in which the chat said something last; at first, the one that
// changed last.

import { openView, isEnded, wordsOf } from "@copilotd/client";

import { el, keyed, setText } from "../dom.js";
import { clock } from "../time.js";
import { Conversations } from "./conversations.js";
import { drawTurns } from "./turns.js";

const STREAM = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  closed: "",
  failed: "Not reachable",
};

const NOTHING = { turns: [], status: "closed", cursor: null, isErased: false, error: null };

export class Activity {
  #parts;
  #ask;
  #copilotd = null;
  #list;
  #view = null;
  /** Id of the conversation that is shown. */
  #shown = null;
  /** Whether the person chose it, here or by what was said in the chat. Else the one that changed last is shown. */
  #isChosen = false;

  /**
   * `ask` sends a message through the chat.
   * @param {Record<string, any> & { ask: (text: string) => void }} parts
   */
  constructor({ ask, ...parts }) {
    this.#parts = parts;
    this.#ask = ask;
    this.#list = new Conversations(() => this.#listed());
    parts.more.onclick = () => this.#attempt(() => this.#list.older());
    parts.earlier.onclick = () => this.#attempt(() => this.#view.loadEarlier());
    parts.meanwhile.onsubmit = (event) => {
      event.preventDefault();
      this.#sendMeanwhile();
    };
  }

  /** Begins anew as another user. */
  signIn(copilotd) {
    this.#copilotd = copilotd;
    this.#isChosen = false;
    this.#show(null);
    this.#list.of(copilotd);
  }

  /** Something happened in a conversation of the chat: it is shown, and the list is read again soon. */
  heard(conversation) {
    if (conversation) {
      this.#isChosen = true;
      this.#show(conversation);
    }
    this.#list.refresh(300);
  }

  /** Sends a message: through the chat, or to the conversation itself while it answers and the chat takes none. */
  say(text) {
    if (!this.#isBusy()) return this.#ask(text);
    this.#parts.input.value = text;
    this.#sendMeanwhile();
  }

  async run(pause) {
    for (;;) {
      await pause(2000);
      if (!document.hidden) this.#list.refresh();
    }
  }

  #isBusy() {
    return Boolean(this.#view?.getSnapshot().turns.some((turn) => !isEnded(turn)));
  }

  #listed() {
    const newest = this.#list.newest();
    if (!this.#isChosen && newest) this.#show(newest.id);
    this.#drawList();
  }

  #show(id) {
    if (id === this.#shown && (id === null) === (this.#view === null)) return;
    this.#view?.close();
    this.#shown = id;
    this.#view = id === null ? null : openView(this.#copilotd.conversation(id));
    const view = this.#view;
    view?.subscribe(() => view === this.#view && this.#drawTurns());
    this.#drawTurns();
    this.#drawList();
  }

  #drawTurns() {
    const { turns, status, cursor, isErased, error } = this.#view?.getSnapshot() ?? NOTHING;
    drawTurns(this.#parts.turns, turns, (id) => this.#attempt(() => this.#copilotd.turn(id).cancel()));
    this.#parts.connection.dataset.state = status;
    setText(this.#parts.connection, STREAM[status] ?? "");
    this.#parts.empty.hidden = turns.length > 0;
    this.#parts.earlier.hidden = !cursor;
    const busy = turns.some((turn) => !isEnded(turn));
    if (this.#parts.meanwhile.hidden === busy) {
      this.#parts.meanwhile.hidden = !busy;
      // The choice is for this answer. Left at “interrupts”, it would surprise with the next one.
      this.#parts.whenBusy.value = "enqueue";
    }
    const last = turns.at(-1);
    const said = last && `${last.status.replaceAll("_", " ")}: ${wordsOf(last.input).slice(0, 80)}`;
    setText(this.#parts.summary, said ?? "");
    if (isErased || error?.code === "not_found") this.#gone();
  }

  /** The conversation was deleted, in the chat or elsewhere. */
  #gone() {
    const id = this.#shown;
    this.#isChosen = false;
    this.#show(null);
    this.#list.forget(id);
  }

  #drawList() {
    this.#parts.more.hidden = !this.#list.hasMore;
    keyed(
      this.#parts.conversations,
      this.#list.all(),
      ({ id }) => id,
      (conversation) => this.#createEntry(conversation.id),
      (node, conversation) => this.#updateEntry(node, conversation),
    );
  }

  #createEntry(id) {
    const node = el("li", { class: "conversation" });
    const choose = () => {
      this.#isChosen = true;
      this.#show(id);
    };
    node.name = el("span", { class: "name" });
    node.meta = el("span", { class: "meta" });
    node.choose = el("button", { type: "button", class: "choose", onclick: choose }, node.name, node.meta);
    node.append(node.choose);
    return node;
  }

  #updateEntry(node, { id, title, updated_at: at, turn_count: turns }) {
    node.choose.setAttribute("aria-pressed", String(id === this.#shown));
    setText(node.name, title ?? "Untitled");
    setText(node.meta, `${clock(at)} · ${turns === 1 ? "1 turn" : `${turns} turns`}`);
  }

  async #sendMeanwhile() {
    const { input, whenBusy } = this.#parts;
    const text = input.value;
    if (!text.trim() || !this.#shown) return;
    await this.#attempt(async () => {
      const conversation = this.#copilotd.conversation(this.#shown);
      await conversation.send(text, { whenBusy: whenBusy.value });
      if (input.value === text) input.value = "";
    });
  }

  /** Does something that may be refused; says why. */
  async #attempt(action) {
    setText(this.#parts.problem, "");
    try {
      await action();
    } catch (error) {
      setText(this.#parts.problem, error.detail ?? error.title ?? error.message);
    }
  }
}
