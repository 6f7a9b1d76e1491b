// The simulated Zendesk as an agent sees it: the tickets, and one of them with its comments. Subjects and comments are
// written by strangers; they are shown as text only.

import { el, keyed } from "../dom.js";
import { clock } from "../time.js";
import { Changes } from "./feed.js";

export class Zendesk {
  #list;
  #detail;
  #address;
  #changes = new Changes();
  #tickets = [];
  #fresh = new Set();
  #open = null;
  #isShown = false;

  /** `address` gives the link of a ticket. */
  constructor({ list, detail, address }) {
    this.#list = list;
    this.#detail = detail;
    this.#address = address;
  }

  /** Another tenant's account: what is shown of the one before goes at once. */
  clear() {
    this.#changes.clear();
    this.#tickets = [];
    this.#fresh.clear();
    this.#draw();
  }

  /** Takes a new view. Returns how many tickets are new or differ. */
  take({ tickets }) {
    const fresh = this.#changes.of(tickets, (ticket) => ticket.id);
    for (const id of fresh) this.#fresh.add(id);
    this.#tickets = tickets;
    this.#draw(fresh);
    return fresh.size;
  }

  /** Shows a ticket, or the list alone. */
  open(id) {
    this.#open = id ? Number(id) : null;
    this.#draw();
  }

  /** Whether the person looks at it. What was new is not new any more once they look away. */
  show(isShown) {
    if (this.#isShown && !isShown) this.#fresh.clear();
    this.#isShown = isShown;
    this.#draw();
  }

  #draw(changed = new Set()) {
    keyed(
      this.#list,
      this.#tickets,
      (ticket) => ticket.id,
      (ticket) => el("li", { class: "ticket", data: { id: ticket.id } }, el("a")),
      (node, ticket) => {
        const link = node.firstElementChild;
        link.href = this.#address(ticket.id);
        if (ticket.id === this.#open) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
        mark(node, this.#fresh.has(ticket.id), changed.has(ticket.id));
        refill(node, link, ticket, row);
      },
    );
    const ticket = this.#tickets.find(({ id }) => id === this.#open);
    this.#detail.dataset.open = String(Boolean(ticket));
    const shown = ticket ?? { missing: this.#open };
    if (refill(this.#detail, this.#detail, shown, ticket ? detail(this.#address(null)) : nothing))
      mark(this.#detail, false, changed.has(this.#open));
  }
}

/** Marks what is new, and plays its animation again when it changes once more. */
export function mark(node, isFresh, isChanged) {
  node.classList.toggle("fresh", isFresh && !isChanged);
  if (!isChanged) return;
  // Reading a measure restarts the animation.
  void node.offsetWidth;
  node.classList.add("fresh");
}

/** Fills a node anew if what it shows differs from the last time. Returns whether it did. */
export function refill(owner, node, item, fill) {
  const source = JSON.stringify(item);
  if (owner.__source === source) return false;
  owner.__source = source;
  node.replaceChildren(...fill(item));
  return true;
}

const isUrgent = ({ priority }) => priority === "urgent" || priority === "high";
const badge = (status) => el("span", { class: "badge", data: { status }, text: status });

function row(ticket) {
  return [
    badge(ticket.status),
    el(
      "span",
      { class: "subject" },
      el("span", { class: "number", text: `#${ticket.id} ` }),
      ticket.subject,
      ticket.unread ? el("span", { class: "unread", text: "unread" }) : null,
    ),
    el("span", { class: "requester", text: ticket.requester ?? "" }),
    el("span", { class: isUrgent(ticket) ? "priority urgent" : "priority", text: ticket.priority ?? "" }),
    el("time", { text: clock(ticket.updated_at) }),
  ];
}

const detail = (back) => (ticket) => [
  el(
    "header",
    {},
    el("a", { class: "back", href: back, text: "All tickets" }),
    el("h3", { text: ticket.subject }),
    el(
      "p",
      { class: "meta" },
      badge(ticket.status),
      el("span", { text: `#${ticket.id}` }),
      el("span", { text: ticket.requester ? `from ${ticket.requester}` : "without a requester" }),
      ticket.priority ? el("span", { class: isUrgent(ticket) ? "urgent" : "", text: ticket.priority }) : null,
    ),
  ),
  el("ol", { class: "comments" }, ...ticket.comments.map(comment)),
];

function comment({ author, by_agent: byAgent, body, public: isPublic, created_at: at }) {
  return el(
    "li",
    { class: isPublic ? (byAgent ? "agent" : "customer") : "internal" },
    el(
      "div",
      { class: "by" },
      el("strong", { text: author ?? "unknown" }),
      el("time", { text: clock(at) }),
      isPublic ? null : el("span", { text: "internal note" }),
    ),
    el("div", { class: "text", text: body }),
  );
}

const nothing = ({ missing }) => [
  el("p", { class: "empty", text: missing ? `There is no ticket #${missing} here.` : "Choose a ticket to read it." }),
];
