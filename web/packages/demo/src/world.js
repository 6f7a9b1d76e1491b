// Shows the simulated Slack and Zendesk, as they are now.

import { clock, el, keyed, setText } from "./dom.js";
import { mrkdwn } from "./markdown.js";

const PERIOD = 1000;

/**
 * Polls one tenant's account at a simulator. `where` gives the simulator's address, which is another one after a restart of the
 * demo.
 */
export class Pane {
  constructor({ body, state, where, moved, draw }) {
    this.body = body;
    this.state = state;
    this.where = where;
    this.moved = moved;
    this.draw = draw;
    this.changed = null;
    this.version = 0;
    this.origin = null;
    this.account = null;
  }

  /** Shows another tenant's account; what is shown of the one before goes at once. */
  show(account) {
    if (account === this.account) return;
    Object.assign(this, { account, version: 0 });
    this.body.replaceChildren();
    this.#poll();
  }

  async run(changed) {
    this.changed = changed;
    for (;;) {
      if (!document.hidden) await this.#poll();
      await new Promise((resolve) => setTimeout(resolve, PERIOD));
    }
  }

  async #poll() {
    const { account } = this;
    const origin = this.where();
    // Versions of another process mean nothing.
    if (origin !== this.origin) Object.assign(this, { origin, version: 0 });
    const { version } = this;
    try {
      const query = new URLSearchParams({ account, after: String(version) });
      const answer = await fetch(`${origin}/_sim/changes?${query}`, { signal: AbortSignal.timeout(5000) });
      const news = await answer.json();
      // Meanwhile another tenant may have been chosen, or the same news drawn.
      if (account !== this.account || version !== this.version || !answer.ok) return;
      setText(this.state, "");
      if (!news.changed) return;
      this.version = news.version;
      this.draw(this.body, news, version !== 0 && (() => this.changed?.()));
    } catch {
      setText(this.state, "not reachable, trying again");
      await this.moved().catch(() => {});
    }
  }
}

/** Marks a node that has just changed. */
function flash(node, changed) {
  if (!changed) return;
  changed();
  node.classList.remove("fresh");
  // Reading a measure restarts the animation.
  void node.offsetWidth;
  node.classList.add("fresh");
}

/** Creates and updates children, and marks those that are new or differ. */
function list(parent, items, key, create, fill, changed) {
  keyed(parent, items, key, create, (node, item) => {
    const source = JSON.stringify(item);
    if (node.__source === source) return;
    node.__source = source;
    fill(node, item);
    flash(node, changed);
  });
}

export function drawSlack(body, { channels }, changed) {
  const busy = channels.filter((channel) => channel.messages.length);
  keyed(
    body,
    busy,
    (channel) => channel.id,
    createChannel,
    (node, channel) => {
      list(
        node.messages,
        channel.messages,
        (message) => message.ts,
        () => el("li"),
        fillMessage,
        changed,
      );
      const last = node.messages.lastElementChild;
      if (changed && last?.classList.contains("fresh")) last.scrollIntoView({ block: "nearest" });
    },
  );
}

function createChannel(channel) {
  const node = el("section", { class: "channel", data: { name: channel.name } }, el("h3", { text: channel.name }));
  node.messages = el("ol");
  node.append(node.messages);
  return node;
}

function fillMessage(node, message) {
  const time = new Date(Number(message.ts) * 1000);
  node.classList.toggle("reply", Boolean(message.thread_ts && message.thread_ts !== message.ts));
  node.replaceChildren(
    el(
      "div",
      { class: "by" },
      el("strong", { text: message.user }),
      el("time", { text: clock(time) }),
      message.edited ? el("span", { text: "edited" }) : null,
    ),
    el("div", { class: "text" }, ...mrkdwn(message.text)),
    message.reactions.length
      ? el("div", { class: "reactions", text: message.reactions.map((name) => `:${name}:`).join(" ") })
      : "",
  );
}

export function drawZendesk(body, { tickets }, changed) {
  list(body, tickets, (ticket) => ticket.id, createTicket, fillTicket, changed);
  if (changed && body.firstElementChild?.classList.contains("fresh")) body.scrollTop = 0;
}

function createTicket(ticket) {
  const node = el("details", { class: "ticket", data: { id: ticket.id } });
  node.summary = el("summary");
  node.comments = el("ol");
  node.append(node.summary, node.comments);
  return node;
}

function fillTicket(node, ticket) {
  const urgent = ticket.priority === "urgent" || ticket.priority === "high";
  node.summary.replaceChildren(
    el("span", { class: "subject" }, el("span", { class: "number", text: `#${ticket.id}` }), ` ${ticket.subject}`),
    el(
      "span",
      { class: "meta" },
      el("span", { class: "badge", data: { status: ticket.status }, text: ticket.status }),
      ticket.priority ? el("span", { class: urgent ? "urgent" : "", text: ticket.priority }) : null,
      el("span", { text: ticket.requester ?? "" }),
      ticket.unread ? el("span", { class: "unread", text: "unread" }) : null,
      el("time", { text: clock(ticket.updated_at) }),
    ),
  );
  node.comments.replaceChildren(
    ...ticket.comments.map((comment) =>
      el(
        "li",
        { class: comment.public ? "" : "internal" },
        el(
          "div",
          { class: "by" },
          el("strong", { text: comment.author ?? "unknown" }),
          el("time", { text: clock(comment.created_at) }),
          comment.public ? null : el("span", { text: "internal note" }),
        ),
        el("div", { class: "text", text: comment.body }),
      ),
    ),
  );
}
