// Draws the turns of a conversation for a developer: events in order, arguments and results, tokens and costs.

import { isEnded, wordsOf } from "@copilotd/client";

import { el, keyed, setText } from "../dom.js";
import { left } from "../time.js";
import { callOf, figures, noticeOf, shown, statusOf, toolName, waitOf } from "./words.js";

/** Draws turns, the newest first; `cancel` stops one. */
export function drawTurns(parent, turns, cancel) {
  const queued = turns.filter(({ status }) => status === "queued");
  keyed(
    parent,
    turns.toReversed(),
    ({ id }) => id,
    (turn) => createTurn(turn, cancel),
    (node, turn) => updateTurn(node, turn, queued.indexOf(turn) + 1),
  );
}

function createTurn({ id, input }, cancel) {
  const node = el("li", { class: "turn", data: { id } });
  node.status = el("span", { class: "badge" });
  node.wait = el("span", { class: "timer" });
  node.stop = el("button", { type: "button", class: "quiet", onclick: () => cancel(id) });
  node.items = el("ol", { class: "items" });
  node.figures = el("dl", { class: "figures" });
  node.error = el("p", { class: "problem" });
  node.append(
    el("div", { class: "line" }, node.status, el("span", { class: "input", text: wordsOf(input) })),
    node.items,
    node.error,
    node.figures,
  );
  node.firstElementChild.append(node.wait, node.stop);
  return node;
}

function updateTurn(node, turn, position) {
  // What is queued is drawn again when its place changes; all else is a new object when it changes.
  if (node.__turn === turn && node.__position === position) return;
  Object.assign(node, { __turn: turn, __position: position });
  node.dataset.status = turn.status;
  node.status.dataset.status = turn.status;
  setText(node.status, statusOf(turn, position));
  node.wait.hidden = !turn.waiting;
  if (turn.waiting) {
    Object.assign(node.wait.dataset, { until: turn.waiting.until, before: `${waitOf(turn.waiting)} ` });
    setText(node.wait, `${waitOf(turn.waiting)} ${left(turn.waiting.until)}`);
  } else delete node.wait.dataset.until;
  node.stop.hidden = isEnded(turn);
  setText(node.stop, turn.status === "queued" ? "Remove from the queue" : "Stop");
  // A step that only calls tools has a text of nothing.
  const items = turn.items.filter((item) => item.kind !== "text" || item.text || item.isOpen);
  keyed(node.items, items, (item) => `${item.kind}/${item.id}`, createItem, updateItem);
  setText(node.error, turn.error ? `${turn.error.code}: ${turn.error.message}` : "");
  const said = figures(turn);
  node.figures.replaceChildren(
    ...said.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))),
  );
}

function createItem(item) {
  if (item.kind === "notice") {
    return el("li", { class: "notice", data: { type: item.event.type }, text: noticeOf(item) });
  }
  const node = el("li", { class: item.kind === "tool" ? "call" : "text", data: { name: item.name ?? "" } });
  node.summary = el("summary");
  node.body = el("div", { class: "body" });
  node.append(el("details", {}, node.summary, node.body));
  return node;
}

function updateItem(node, item) {
  if (node.__item === item || item.kind === "notice") return;
  node.__item = item;
  if (item.kind === "text") {
    const cited = item.citations.length ? `, ${item.citations.length} cited` : "";
    node.summary.replaceChildren(
      el("span", { class: "name", text: item.isOpen ? "text, streaming" : "text" }),
      el("span", { class: "state", text: `${item.text.length.toLocaleString("en")} characters${cited}` }),
    );
    node.body.replaceChildren(
      el("pre", { text: shown(item.text) }),
      ...item.citations.map(({ title, quote }) => el("p", { class: "source", text: `${title}: “${quote}”` })),
    );
    return;
  }
  node.dataset.status = item.status;
  node.summary.replaceChildren(
    el("span", { class: "name", text: toolName(item.name) }),
    el("span", { class: "badge", data: { status: item.status }, text: callOf(item) }),
  );
  const parts = [["arguments", shown(item.arguments)], ["result", shown(item.result)], ["error", shown(item.error)]];
  node.body.replaceChildren(
    ...parts.filter(([, text]) => text).flatMap(([name, text]) => [el("h4", { text: name }), el("pre", { text })]),
  );
}
