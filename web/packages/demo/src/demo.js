// The page: who is here, which conversation is open, what is sent, and the stream that keeps it true.
//
// The address says it all (`#/tenant/user/conversation`), so that a reload, a bookmark or a second window shows the
// same.

import { Api, pause } from "./api.js";
import { el, keyed, left, setText } from "./dom.js";
import { LAG, List } from "./list.js";
import { Outbox } from "./outbox.js";
import { failure, refusal } from "./sentences.js";
import { createTurn, toolName, updateTurn } from "./transcript.js";
import { EVENTS, History, Turn } from "./turns.js";
import { drawSlack, drawZendesk, Pane } from "./world.js";

const SUGGESTIONS = [
  { text: "Summarise the unread tickets and alert #support" },
  { text: "How long does a refund take?" },
  { text: "Create a ticket about a broken export" },
  { text: "Show me ticket 103" },
  { label: "A slow answer", text: "[[sim tokens=200 pace_ms=60]] Tell me something long" },
  {
    label: "A provider that breaks off once",
    text: "[[sim tokens=80 pace_ms=30 cut_after=180 fail_times=1]] Try this",
  },
  { label: "A provider that is down", text: "[[sim status=500]] Are you there?" },
  { label: "A tool that fails", text: "Show me ticket 99999" },
  {
    label: "Wrong tool arguments",
    text: '[[sim tool=zendesk_get_ticket args={"ticket_id": "oops"} text="I need the number of a ticket to open it. Which one do you mean?"]] Show me ticket “oops”',
  },
];

/**
 * Finds an element of index.html. Of which kind it is, only the HTML says.
 * @type {(id: string) => any}
 */
const $ = (id) => document.getElementById(id);
/** @type {(selector: string) => NodeListOf<HTMLElement>} */
const $$ = (selector) => document.querySelectorAll(selector);

/** What `/demo.json` says: tokens and the simulators' addresses. */
let about;
/** `{tenant, user}` */
let who;
let api;
/** The open conversation, or the one that begins with the next message (`id` is null). */
let session;
const outbox = new Outbox(apiOf, {
  changed: drawAll,
  began(draft, conversation, sender) {
    if (isMe(sender)) list.add(conversation);
    if (session.draft?.key === draft.key) location.replace(address(conversation.id));
  },
});
/** The tenant's own Slack and Zendesk. */
const panes = Object.entries({ slack: drawSlack, zendesk: drawZendesk }).map(
  ([name, draw]) =>
    new Pane({ body: $(name), state: $(`${name}-state`), where: () => about.sim[name], moved: readAbout, draw }),
);
const list = new List({
  parent: $("conversations"),
  more: $("more"),
  address: (id) => address(id),
  isOpen: (id) => id === session?.id,
  chosen: () => view("chat"),
});

// --- Who, and which conversation -------------------------------------------------------------------------------------

async function readAbout() {
  const answer = await fetch("demo.json", { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(await answer.text());
  about = await answer.json();
}

/** Reads it as soon as the server is there: a page may be reloaded while the demo restarts. */
async function waitForAbout() {
  for (;;) {
    try {
      return await readAbout();
    } catch {
      banner("The demo is starting…", "away");
      await pause(500);
    }
  }
}

function apiOf({ tenant, user }) {
  const token = () => about.tenants[tenant].users[user];
  return new Api(token(), () => readAbout().then(token));
}

/** Whether that is who is here now. */
const isMe = ({ tenant, user }) => tenant === who.tenant && user === who.user;
const address = (conversation, { tenant, user } = who) => `#/${tenant}/${user}/${conversation ?? ""}`;

/** Shows what the address says. */
function route() {
  let [, tenant, user, conversation] = location.hash.split("/");
  if (!about.tenants[tenant]?.users[user]) {
    [tenant, conversation] = [Object.keys(about.tenants)[0], null];
    user = Object.keys(about.tenants[tenant].users)[0];
  }
  if (who?.tenant !== tenant || who?.user !== user) {
    who = { tenant, user };
    api = apiOf(who);
    options($("tenant"), Object.keys(about.tenants), tenant);
    options($("user"), Object.keys(about.tenants[tenant].users), user);
    list.of(api);
    for (const pane of panes) pane.show(tenant);
    session?.abort.abort();
    session = null;
    outbox.deliver();
  }
  if (!session || session.id !== (conversation || null)) open(conversation || null);
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name) => el("option", { value: name, text: name })));
  select.value = chosen;
}

function open(id) {
  session?.abort.abort();
  session?.source?.close();
  session = {
    id,
    title: null,
    turns: new Map(),
    changed: new Set(),
    history: null,
    abort: new AbortController(),
    failures: 0,
  };
  atEnd = true;
  view("chat");
  connection("idle");
  drawAll();
  if (id) sync(session);
  else if (matchMedia("(min-width: 760px)").matches) $("input").focus();
}

// --- The stream ------------------------------------------------------------------------------------------------------

/** Reads what the conversation is, and follows what it becomes. Begins anew until that worked. */
async function sync(mine) {
  const { signal } = mine.abort;
  if (mine.syncing) return;
  mine.syncing = true;
  mine.source?.close();
  connection(mine.failures ? "reconnecting" : "connecting");
  const path = `/v1/conversations/${mine.id}`;
  const away = () => connection("reconnecting");
  try {
    const conversation = await api.insist("GET", path, { signal }, away);
    const history = new History(api, mine.id);
    const turns = await history.earlier(signal);
    const { ticket } = await api.insist(
      "POST",
      "/v1/stream-tickets",
      { body: { conversation_id: mine.id }, signal },
      away,
    );
    if (signal.aborted) return;
    Object.assign(mine, { title: conversation.title, history, turns: new Map(turns.map((turn) => [turn.id, turn])) });
    follow(mine, `${path}/events?${new URLSearchParams({ after: String(history.lastSeq), ticket })}`);
    drawAll();
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 404) return gone("This conversation does not exist, or is not yours.");
    problem(refusal(error));
    again(mine);
  } finally {
    mine.syncing = false;
  }
}

/**
 * Follows the stream. After a cut the browser itself comes back with `Last-Event-ID`, and the server goes on at that
 * very byte. When the server refuses (a ticket that was never used, a position it does not know), all is read anew.
 */
function follow(mine, url) {
  const source = new EventSource(url);
  mine.source = source;
  mine.abort.signal.addEventListener("abort", () => source.close());
  source.onopen = () => {
    mine.failures = 0;
    connection("live");
  };
  source.onerror = () => {
    connection("reconnecting");
    if (source.readyState === EventSource.CLOSED) again(mine);
  };
  for (const type of EVENTS) {
    source.addEventListener(type, (event) => take(mine, type, JSON.parse(event.data)));
  }
}

async function again(mine) {
  mine.failures++;
  await pause(Math.min(500 * 2 ** mine.failures, 5000), mine.abort.signal).then(
    () => sync(mine),
    () => {},
  );
}

function take(mine, type, data) {
  if (type === "conversation.erased") return gone("This conversation was deleted.");
  if (type === "conversation.titled") {
    mine.title = data.title;
    list.refresh(LAG);
    return drawAll();
  }
  // What concerns the conversation as a whole is shown at its end.
  let turn = data.turn_id ? mine.turns.get(data.turn_id) : [...mine.turns.values()].at(-1);
  if (!turn && type === "turn.queued") {
    turn = new Turn(data.turn_id, data.seq, data.input, data.metadata);
    mine.turns.set(turn.id, turn);
  }
  // A turn that is further back than what is shown.
  if (!turn) return;
  turn.apply(type, data);
  if (type === "message.completed" && data.text) announce(`Copilot: ${data.text}`);
  if (type === "approval.requested") announce(`Your decision is needed: ${toolName(data.name)}`);
  if (type === "turn.failed") announce(failure(data.code));
  if (turn.ended || type === "turn.queued") list.refresh(LAG);
  draw(turn);
}

function gone(message) {
  problem(message);
  location.replace(address(null));
}

/** Shows whether what is on the page is live. */
function connection(state) {
  const words = { idle: "", connecting: "Connecting…", live: "Live", reconnecting: "Reconnecting…" };
  $("connection").dataset.state = state;
  setText($("connection"), words[state]);
  if (state === "reconnecting")
    banner("The connection is lost. Reconnecting… What was accepted goes on, and nothing is shown twice.", "away");
  else if ($("banner").dataset.kind === "away") $("banner").hidden = true;
}

function banner(text, kind) {
  Object.assign($("banner"), { hidden: false }).dataset.kind = kind;
  setText($("banner"), text);
}

let problemTimer;
function problem(text) {
  banner(text, "problem");
  clearTimeout(problemTimer);
  problemTimer = setTimeout(() => ($("banner").dataset.kind === "problem" ? ($("banner").hidden = true) : null), 8000);
}

const announce = (text) => setText($("announce"), text);

// --- Sending ---------------------------------------------------------------------------------------------------------

function send(text) {
  if (!text.trim()) return;
  if (!session.id) session.draft ??= { key: crypto.randomUUID(), title: titleOf(text) };
  atEnd = true;
  outbox.add({
    who,
    conversation: session.id,
    draft: session.draft,
    text,
    whenBusy: $("busy").hidden ? "enqueue" : $("when-busy").value,
  });
}

function titleOf(text) {
  const plain =
    text
      .replace(/\[\[sim.*?\]\]/gs, "")
      .trim()
      .split("\n")[0] || "Conversation";
  return plain.length > 60 ? `${plain.slice(0, 59)}…` : plain;
}

const actions = {
  async cancel(turn) {
    try {
      await api.insist("POST", `/v1/turns/${turn.id}/cancel`);
    } catch (error) {
      problem(refusal(error));
    }
  },
  /** A decision may be repeated: an equal one changes nothing. */
  async decide(turn, call, decision, edited) {
    await api.insist("POST", `/v1/turns/${turn.id}/approvals/${call.id}`, {
      body: { decision, ...(edited && { arguments: edited }) },
    });
  },
  async feedback(turn, rating) {
    try {
      await api.insist("POST", `/v1/turns/${turn.id}/feedback`, { body: { rating } });
      turn.rating = rating;
      draw(turn);
      announce("Thank you for the feedback.");
    } catch (error) {
      problem(refusal(error));
    }
  },
  retry: (turn) => send(turn.input),
};

// --- Renaming and deleting -------------------------------------------------------------------------------------------

async function rename(title) {
  const mine = session;
  try {
    const changed = await api.insist("PATCH", `/v1/conversations/${mine.id}`, { body: { title } });
    mine.title = changed.title;
    list.change(changed);
  } catch (error) {
    problem(refusal(error));
  }
  drawAll();
}

async function erase() {
  const { id } = session;
  try {
    await api.call("DELETE", `/v1/conversations/${id}`);
    list.remove(id);
    location.hash = address(null);
  } catch (error) {
    problem(refusal(error));
  }
}

// --- Drawing ---------------------------------------------------------------------------------------------------------

let atEnd = true;
let frame = null;

/** Draws a turn with the next frame: text may come more often than the screen is drawn. */
function draw(turn) {
  session.changed.add(turn);
  frame ??= requestAnimationFrame(drawTurns);
}

function drawAll() {
  if (!session) return;
  for (const turn of session.turns.values()) session.changed.add(turn);
  setText($("title"), session.id ? (session.title ?? "Conversation") : "New conversation");
  document.title = session.title ? `${session.title} · copilotd demo` : "copilotd demo";
  $("tools").hidden = !session.id;
  $("earlier").hidden = !session.history?.more;
  list.draw();
  frame ??= requestAnimationFrame(drawTurns);
}

function drawTurns() {
  frame = null;
  const turns = [...session.turns.values()].sort((a, b) => a.seq - b.seq);
  const queued = turns.filter((turn) => turn.status === "queued");
  for (const turn of queued) session.changed.add(turn);
  keyed(
    $("turns"),
    turns,
    (turn) => turn.id,
    (turn) => {
      session.changed.add(turn);
      return createTurn(turn, actions);
    },
    (node, turn) => {
      if (session.changed.has(turn)) updateTurn(node, turn, queued.indexOf(turn) + 1);
    },
  );
  session.changed.clear();
  drawOutbox(turns);
  const busy = turns.some((turn) => !turn.ended);
  $("busy").hidden = !busy;
  // The choice is for this answer. Left at “interrupts”, it would surprise with the next one.
  if (!busy) $("when-busy").value = "enqueue";
  $("stop").hidden = !turns.some((turn) => !turn.ended && turn.status !== "queued");
  $("scroll").setAttribute("aria-busy", String(busy));
  $("welcome").hidden = Boolean(session.id) || $("outbox").children.length > 0;
  if (atEnd) $("scroll").scrollTop = $("scroll").scrollHeight;
}

function drawOutbox(turns) {
  outbox.settle(new Set(turns.map((turn) => turn.metadata?.send)));
  const isHere = ({ conversation, draft }) =>
    conversation ? conversation === session.id : draft.key === session.draft?.key;
  const here = outbox.entries.filter((entry) => isMe(entry.who) && isHere(entry));
  outbox.draw($("outbox"), here, send);
}

// --- What a person does ----------------------------------------------------------------------------------------------

function listen() {
  addEventListener("hashchange", route);
  addEventListener("online", () => session.id && $("connection").dataset.state !== "live" && sync(session));
  $("tenant").onchange = () => (location.hash = `#/${$("tenant").value}/${who.user}/`);
  $("user").onchange = () => (location.hash = `#/${who.tenant}/${$("user").value}/`);
  $("new").onclick = () => (session.id ? (location.hash = address(null)) : open(null));
  $("more").onclick = () => list.older().catch((error) => problem(refusal(error)));
  $("earlier").onclick = earlier;

  const input = $("input");
  const fit = () => {
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight, 200)}px`;
  };
  input.oninput = fit;
  input.onkeydown = (event) => {
    // Enter also ends the composing of a character; that is no wish to send.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("composer").requestSubmit();
    }
  };
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    send(input.value);
    input.value = "";
    fit();
  };
  $("stop").onclick = () => {
    for (const turn of session.turns.values()) if (!turn.ended && turn.status !== "queued") actions.cancel(turn);
  };

  $("rename").onclick = () => renaming(true);
  $("rename-form").onsubmit = (event) => {
    event.preventDefault();
    const title = $("rename-input").value.trim();
    renaming(false);
    if (title) rename(title);
  };
  $("rename-input").onkeydown = (event) => {
    if (event.key === "Escape") renaming(false);
  };
  $("delete").onclick = () => $("confirm").showModal();
  $("confirm").onclose = () => {
    if ($("confirm").returnValue === "delete") erase();
    $("confirm").returnValue = "";
  };

  const scroll = $("scroll");
  scroll.onscroll = () => {
    atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
    $("latest").hidden = atEnd;
  };
  new ResizeObserver(() => atEnd && (scroll.scrollTop = scroll.scrollHeight)).observe(scroll);
  $("latest").onclick = () => scroll.scrollTo({ top: scroll.scrollHeight });

  for (const button of $$("[data-to]")) {
    button.onclick = () => view(button.dataset.to);
  }
  setInterval(() => {
    for (const node of $$(".timer"))
      setText(node, (node.dataset.before ?? "") + left(node.dataset.until));
  }, 1000);
  setInterval(() => document.hidden || list.refresh(), 15000);
}

/** Chooses what a narrow screen shows. */
function view(name) {
  document.body.dataset.view = name;
  for (const button of $$("[data-to]")) {
    button.setAttribute("aria-pressed", String(button.dataset.to === name));
    if (button.dataset.to === name) button.querySelector(".dot")?.setAttribute("hidden", "");
  }
}

function renaming(on) {
  $("rename-form").hidden = !on;
  $("title").hidden = $("tools").hidden = on;
  if (on) {
    $("rename-input").value = session.title ?? "";
    $("rename-input").select();
  } else $("rename").focus();
}

async function earlier() {
  const mine = session;
  const height = $("scroll").scrollHeight;
  for (const turn of await mine.history.earlier(mine.abort.signal)) {
    if (!mine.turns.has(turn.id)) mine.turns.set(turn.id, turn);
  }
  if (mine !== session) return;
  drawAll();
  // What was read stays where it is.
  requestAnimationFrame(() => ($("scroll").scrollTop += $("scroll").scrollHeight - height));
}

function suggest() {
  const usable = SUGGESTIONS.filter(({ text }) => about.simulated_model || !text.includes("[[sim"));
  $("suggestions").replaceChildren(
    ...usable.map(({ label, text }) =>
      el("button", { type: "button", title: text, text: label ?? text, onclick: () => send(text) }),
    ),
  );
}

async function start() {
  await waitForAbout();
  $("banner").hidden = true;
  listen();
  suggest();
  route();
  // A conversation that had not begun yet when the page was reloaded.
  if (!session.id) session.draft = outbox.entries.find((entry) => isMe(entry.who) && !entry.conversation)?.draft;
  const changed = () =>
    document.body.dataset.view === "world" || document.querySelector(".dot").removeAttribute("hidden");
  for (const pane of panes) pane.run(changed);
}

start().catch((error) => {
  console.error(error);
  problem("The page could not start. Please reload it.");
});
