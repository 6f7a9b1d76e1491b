// The simulated Slack as a colleague sees it: channels, messages and threads, and a field to write in. Messages are
// written by strangers; they are shown as text only.

import { el, keyed, setText } from "../dom.js";
import { clock } from "../time.js";
import { Changes } from "./feed.js";
import { mrkdwn } from "./mrkdwn.js";
import { threads } from "./threads.js";
import { mark, refill } from "./zendesk.js";

const TIMEOUT = 10_000;

export class Slack {
  #channelList;
  #title;
  #messages;
  #form;
  #input;
  #problem;
  #replying;
  #address;
  #who;
  #posted;
  #changes = new Changes();
  #channels = [];
  #fresh = new Set();
  #open = null;
  #thread = null;
  #isShown = false;

  /**
   * `address` gives the link of a channel, `who` the person and the tenant, `posted` hears that a message was posted.
   * @param {Record<"channels" | "title" | "messages" | "form" | "input" | "problem" | "replying", any> &
   *   { address: (id: string) => string, who: () => { tenant: string, user: string }, posted: () => void }} parts
   */
  constructor({ channels, title, messages, form, input, problem, replying, address, who, posted }) {
    this.#channelList = channels;
    this.#title = title;
    this.#messages = messages;
    this.#form = form;
    this.#input = input;
    this.#problem = problem;
    this.#replying = replying;
    this.#address = address;
    this.#who = who;
    this.#posted = posted;
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#write();
    };
    input.onkeydown = (event) => {
      // Enter also ends the composing of a character; that is no wish to send.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    };
    replying.querySelector("button").onclick = () => this.#replyTo(null);
  }

  /** Another tenant's workspace: what is shown of the one before goes at once. */
  clear() {
    this.#changes.clear();
    this.#channels = [];
    this.#fresh.clear();
    this.#replyTo(null);
    this.#input.value = "";
    setText(this.#problem, "");
    this.#draw();
  }

  /** Takes a new view. Returns how many messages are new or differ. */
  take({ channels }) {
    const all = channels.flatMap(({ id, messages }) => messages.map((message) => ({ channel: id, ...message })));
    const fresh = this.#changes.of(all, keyOf);
    for (const key of fresh) this.#fresh.add(key);
    this.#channels = channels;
    this.#draw(fresh);
    return fresh.size;
  }

  /** Shows a channel; without an id the first one. */
  open(id) {
    if (id !== this.#open) this.#replyTo(null);
    this.#open = id || null;
    this.#draw();
    this.#toEnd();
  }

  /** Whether the person looks at it. What was new is not new any more once they look away. */
  show(isShown) {
    if (this.#isShown && !isShown) this.#fresh.clear();
    this.#isShown = isShown;
    this.#draw();
    if (isShown) this.#toEnd();
  }

  get #channel() {
    return this.#channels.find(({ id }) => id === this.#open) ?? this.#channels[0];
  }

  #draw(changed = new Set()) {
    const channel = this.#channel;
    keyed(
      this.#channelList,
      this.#channels,
      ({ id }) => id,
      () => el("li", {}, el("a", {}, el("span", { class: "name" }), el("span", { class: "count" }))),
      (node, { id, name, messages }) => {
        const link = node.firstElementChild;
        link.href = this.#address(id);
        if (id === channel?.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
        setText(link.firstElementChild, name);
        const count = messages.filter(({ ts }) => this.#fresh.has(keyOf({ channel: id, ts }))).length;
        setText(link.lastElementChild, count ? `${count} new` : "");
      },
    );
    setText(this.#title, channel?.name ?? "");
    this.#form.hidden = !channel?.can_write;
    this.#input.placeholder = `Write to ${channel?.name ?? ""} as ${this.#who().user}`;
    this.#messages.dataset.name = channel?.name ?? "";
    const isAtEnd = this.#isAtEnd();
    keyed(
      this.#messages,
      channel ? threads(channel.messages) : [],
      ({ ts }) => keyOf({ channel: channel.id, ts }),
      (root) => createThread(channel, () => this.#replyTo(root)),
      (node, root) => {
        const key = (ts) => keyOf({ channel: channel.id, ts });
        mark(node.root, this.#fresh.has(key(root.ts)), changed.has(key(root.ts)));
        refill(node.root, node.root, { ...root, replies: undefined }, message);
        node.reply.hidden = !channel.can_write;
        keyed(
          node.replies,
          root.replies,
          ({ ts }) => ts,
          () => el("li", { class: "message" }),
          (reply, item) => {
            mark(reply, this.#fresh.has(key(item.ts)), changed.has(key(item.ts)));
            refill(reply, reply, item, message);
          },
        );
      },
    );
    if (isAtEnd) this.#toEnd();
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#messages;
    return scrollHeight - scrollTop - clientHeight < 60;
  }

  #toEnd() {
    this.#messages.scrollTop = this.#messages.scrollHeight;
  }

  #replyTo(root) {
    this.#thread = root && { channel: this.#channel.id, ts: root.ts };
    this.#replying.hidden = !root;
    setText(this.#replying.firstElementChild, root ? `Replying to ${root.user}` : "");
    if (root) this.#input.focus();
  }

  /** Posts what the person wrote. It stays in the field until Slack has it. */
  async #write() {
    const text = this.#input.value;
    const channel = this.#channel;
    if (!text.trim() || !channel || this.#input.disabled) return;
    const { tenant, user } = this.#who();
    const thread = this.#thread?.channel === channel.id ? this.#thread.ts : undefined;
    this.#input.disabled = true;
    setText(this.#problem, "");
    try {
      await post(tenant, { channel: channel.id, user, text, thread_ts: thread });
      // Meanwhile another tenant may have been chosen, whose field is empty already.
      if (this.#input.value === text) this.#input.value = "";
      this.#replyTo(null);
      this.#posted();
    } catch (error) {
      setText(this.#problem, error.message);
    } finally {
      this.#input.disabled = false;
      this.#input.focus();
    }
  }
}

const keyOf = ({ channel, ts }) => `${channel}/${ts}`;

async function post(tenant, written) {
  let answer;
  try {
    answer = await fetch(`demo/slack/messages?${new URLSearchParams({ account: tenant })}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(written),
      signal: AbortSignal.timeout(TIMEOUT),
    });
  } catch {
    throw new Error("Slack cannot be reached. Your message was not posted; please try again.");
  }
  if (answer.ok) return;
  const { error } = await answer.json().catch(() => ({}));
  throw new Error(`Slack did not post this: ${error ?? `the demo answered ${answer.status}`}.`);
}

function createThread(channel, reply) {
  const node = el("li", { class: "thread", data: { channel: channel.name } });
  node.root = el("div", { class: "message" });
  node.replies = el("ol", { class: "replies" });
  node.reply = el("button", { type: "button", class: "quiet reply", text: "Reply in thread", onclick: reply });
  node.append(node.root, node.replies, node.reply);
  return node;
}

function message({ user, is_bot: isBot, ts, text, edited, reactions }) {
  return [
    el("span", { class: isBot ? "face bot" : "face", "aria-hidden": "true", text: user.slice(0, 1) }),
    el(
      "div",
      { class: "said" },
      el(
        "div",
        { class: "by" },
        el("strong", { text: user }),
        isBot ? el("span", { class: "tag", text: "app" }) : null,
        el("time", { text: clock(Number(ts) * 1000) }),
        edited ? el("span", { text: "edited" }) : null,
      ),
      el("div", { class: "text" }, ...mrkdwn(text)),
      reactions.length
        ? el("div", { class: "reactions", text: reactions.map((name) => `:${name}:`).join(" ") })
        : null,
    ),
  ];
}
