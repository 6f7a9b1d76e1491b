// Messages on their way: from the moment they are sent until the conversation shows them.

import { el, icon, keyed } from "./dom.js";
import { refusal } from "./sentences.js";
import { userText } from "./transcript.js";

/**
 * Delivers in order, each with an idempotency key. Until the server has answered, the same key is sent again, also
 * after a reload of the page: there can be no second turn.
 */
export class Outbox {
  #delivering = false;

  /** `apiOf` makes a caller; `changed` hears of every change; `began` of a conversation that a message began. */
  constructor(apiOf, { changed, began }) {
    this.apiOf = apiOf;
    this.changed = changed;
    this.began = began;
    this.entries = JSON.parse(sessionStorage.getItem("outbox") ?? "[]");
  }

  /** Takes `{who, conversation | null, draft, text, whenBusy}`. */
  add(entry) {
    this.entries.push({ key: crypto.randomUUID(), ...entry });
    this.#keep();
    this.changed();
    this.deliver();
  }

  async deliver() {
    if (this.#delivering) return;
    this.#delivering = true;
    for (let entry; (entry = this.entries.find(({ accepted, error }) => !accepted && !error));) {
      try {
        await this.#send(entry);
        entry.accepted = true;
      } catch (error) {
        entry.error = refusal(error);
      }
      this.#keep();
      this.changed();
    }
    this.#delivering = false;
  }

  async #send(entry) {
    const api = this.apiOf(entry.who);
    const away = () => {
      entry.away = true;
      this.changed();
    };
    if (!entry.conversation) {
      // Two messages of one draft begin the same conversation: same key, same body.
      const { key, title } = entry.draft;
      const made = await api.insist("POST", "/v1/conversations", { body: { title }, key }, away);
      entry.conversation = made.id;
      this.#keep();
      this.began(entry.draft, made, entry.who);
    }
    const body = { input: entry.text, when_busy: entry.whenBusy, metadata: { send: entry.key } };
    await api.insist("POST", `/v1/conversations/${entry.conversation}/turns`, { body, key: entry.key }, away);
  }

  /** Lets go of what the conversation shows by now. */
  settle(keys) {
    if (this.entries.some(({ key }) => keys.has(key))) this.#drop(({ key }) => keys.has(key));
  }

  #drop(which) {
    this.entries = this.entries.filter((entry) => !which(entry));
    this.#keep();
  }

  /** Keeps what a reload would lose. What is accepted is the server's to keep. */
  #keep() {
    sessionStorage.setItem("outbox", JSON.stringify(this.entries.filter(({ accepted }) => !accepted)));
  }

  /** Shows some of the entries. `again` sends a text anew. */
  draw(parent, entries, again) {
    const create = (entry) => {
      const node = el("li", { class: "turn" }, el("div", { class: "said" }, userText(entry.text)));
      node.append((node.state = el("div", { class: "sending" })));
      return node;
    };
    keyed(
      parent,
      entries,
      (entry) => entry.key,
      create,
      (node, entry) => {
        const say = entry.error ?? (entry.away && !entry.accepted ? "Not sent yet; trying again…" : "Sending…");
        if (node.__say === say) return;
        node.__say = say;
        node.state.replaceChildren(el("span", { role: entry.error ? "alert" : null, text: say }));
        if (!entry.error) return;
        const drop = () => {
          this.#drop((other) => other === entry);
          this.changed();
        };
        // A refused message gets a new key: under the old one the refusal may be remembered.
        const retry = () => (drop(), again(entry.text));
        node.state.append(
          el("button", { type: "button", class: "small", onclick: retry }, icon("retry"), "Try again"),
          el("button", { type: "button", class: "quiet", text: "Discard", onclick: drop }),
        );
      },
    );
  }
}
