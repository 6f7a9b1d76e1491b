// The page: who is here, which part is shown, and what its parts tell each other.
//
// The address says it all (`#/tenant/user/part/item`), so that a reload, a bookmark or a second window shows the same.

import { createClient } from "@copilotd/client";

import { Activity } from "./activity/activity.js";
import { ALWAYS, mountChat, opening, TRIALS } from "./chat.js";
import { el, setText } from "./dom.js";
import { Product } from "./product/product.js";
import { left, pause } from "./time.js";
import { Feed } from "./vendors/feed.js";
import { Slack } from "./vendors/slack.js";
import { Zendesk } from "./vendors/zendesk.js";

/**
 * Finds an element of index.html. Of which kind it is, only the HTML says.
 * @type {(id: string) => any}
 */
const $ = (id) => document.getElementById(id);
/** @type {(selector: string) => NodeListOf<HTMLElement>} */
const $$ = (selector) => document.querySelectorAll(selector);

const PARTS = ["product", "zendesk", "slack"];

/** What `/demo.json` says: tokens of the users. */
let about;
/** `{tenant, user}` */
let who;
let part = PARTS[0];
let chat = null;

const ask = async (text) => {
  await customElements.whenDefined("copilotd-chat");
  await chat.send(text);
};
const product = new Product({
  ask,
  company: $("company"),
  outstanding: $("outstanding"),
  overdue: $("overdue"),
  paid: $("paid"),
  tickets: $("open-tickets"),
  rows: $("invoices"),
  invoice: $("invoice"),
});
const activity = new Activity({
  ask,
  conversations: $("conversations"),
  more: $("more"),
  turns: $("turns"),
  earlier: $("earlier"),
  empty: $("no-turns"),
  connection: $("connection"),
  summary: $("activity-summary"),
  problem: $("activity-problem"),
  meanwhile: $("meanwhile"),
  input: $("meanwhile-input"),
  whenBusy: $("when-busy"),
});
const zendesk = new Zendesk({ list: $("tickets"), detail: $("ticket"), address: (id) => address("zendesk", id) });
const slack = new Slack({
  channels: $("channels"),
  title: $("channel"),
  messages: $("messages"),
  form: $("write"),
  input: $("write-input"),
  problem: $("write-problem"),
  replying: $("replying"),
  address: (id) => address("slack", id),
  who: () => who,
  posted: () => feeds.slack.poll(),
});
/** Views of the part that the address names; `take` returns how many things are new. */
const vendors = { zendesk, slack };
const feeds = Object.fromEntries(
  Object.entries(vendors).map(([name, vendor]) => [
    name,
    new Feed(/** @type {"zendesk" | "slack"} */ (name), {
      news(view) {
        const count = vendor.take(view);
        if (view.tickets) product.tickets(view.tickets);
        if (part !== name) noted(name, count);
      },
      state: (isReachable) => setText($(`${name}-state`), isReachable ? "" : "not reachable, trying again"),
    }),
  ]),
);

// --- Who, and which part ---------------------------------------------------------------------------------------------

async function readAbout() {
  const answer = await fetch("demo.json", { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(await answer.text());
  about = await answer.json();
}

/** Reads it as soon as the server is there: a page may be reloaded while the demo restarts. */
async function waitForAbout() {
  for (;;) {
    try {
      await readAbout();
      $("banner").hidden = true;
      return;
    } catch {
      $("banner").hidden = false;
      setText($("banner"), "The demo is starting…");
      await pause(500);
    }
  }
}

const address = (to, item, { tenant, user } = who) => `#/${tenant}/${user}/${to}${item ? `/${item}` : ""}`;

/** Shows what the address says. */
function route() {
  let [, tenant, user, to, item] = location.hash.split("/").map(decodeURIComponent);
  if (!about.tenants[tenant]?.users[user]) {
    tenant = Object.keys(about.tenants)[0];
    user = Object.keys(about.tenants[tenant].users)[0];
  }
  if (who?.tenant !== tenant || who?.user !== user) signIn({ tenant, user });
  part = PARTS.includes(to) ? to : PARTS[0];
  document.body.dataset.part = part;
  for (const link of $$(".tabs a")) {
    const name = link.dataset.to;
    link.setAttribute("href", address(name));
    if (name === part) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  noted(part, null);
  for (const [name, vendor] of Object.entries(vendors)) {
    if (name === part) vendor.open(item);
    vendor.show(name === part);
  }
  const title = part === "product" ? "Product" : part.replace(/^./, (first) => first.toUpperCase());
  document.title = `${title} · ${tenant} · copilotd demo`;
}

/** Gives a user's token: the known one, and a new one each time that it was refused. */
function tokenSource({ tenant, user }) {
  let isKnown = true;
  return async () => {
    if (!isKnown) await waitForAbout();
    isKnown = false;
    return about.tenants[tenant].users[user];
  };
}

/** Becomes another user: nothing of the one before stays on the page. */
function signIn(next) {
  const isSameTenant = who?.tenant === next.tenant;
  who = next;
  options($("tenant"), Object.keys(about.tenants), who.tenant);
  options($("user"), Object.keys(about.tenants[who.tenant].users), who.user);
  const token = tokenSource(next);
  if (!isSameTenant) {
    for (const [name, vendor] of Object.entries(vendors)) {
      vendor.clear();
      noted(name, null);
      feeds[name].follow(who.tenant);
    }
    product.show(who.tenant);
    offerTrials();
  }
  activity.signIn(createClient({ baseUrl: location.origin, token: tokenSource(next) }));
  const isOpen = chat ? chat.hasAttribute("open") : matchMedia("(min-width: 60rem)").matches;
  chat?.remove();
  chat = mountChat({
    tenant: who.tenant,
    token,
    isOpen,
    heard: (event) => activity.heard(event.detail?.conversationId),
    openInvoice(number) {
      const opened = product.open(number);
      location.hash = address("product");
      return opened;
    },
  });
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => el("option", { value: name, text: name })));
  select.value = chosen;
}

/** Counts what is new in a part that is not shown; null when it has been seen. */
function noted(name, count) {
  const badge = document.querySelector(`.tabs [data-to="${name}"] .count`);
  if (!badge) return;
  const sum = count === null ? 0 : Number(badge.textContent || 0) + count;
  setText(badge, sum ? String(sum) : "");
}

// --- What a person does ----------------------------------------------------------------------------------------------

function listen() {
  addEventListener("hashchange", route);
  const become = () => (location.hash = address(part, null, { tenant: $("tenant").value, user: $("user").value }));
  $("tenant").onchange = become;
  $("user").onchange = become;
  setInterval(() => {
    for (const node of $$(".timer[data-until]"))
      setText(node, (node.dataset.before ?? "") + left(node.dataset.until));
  }, 1000);
}

function offerTrials() {
  const always = [opening(product.example, about.simulated_model), ...ALWAYS];
  const usable = about.simulated_model ? [...TRIALS, ...always] : always;
  $("trials").replaceChildren(
    ...usable.map(({ label, text }) =>
      el("button", { type: "button", class: "small", title: text, text: label, onclick: () => activity.say(text) }),
    ),
  );
}

async function start() {
  await waitForAbout();
  // On a phone the product has the screen.
  $("activity").open = matchMedia("(min-width: 48rem)").matches;
  listen();
  route();
  for (const feed of Object.values(feeds)) feed.run();
  activity.run(pause);
}

start().catch((error) => {
  console.error(error);
  $("banner").hidden = false;
  setText($("banner"), "The page could not start. Please reload it.");
});
