// The part of Markdown that models use: paragraphs, headings, lists, quotes, code, emphasis, links. It builds DOM nodes
// from text; what it does not know stays the text it is.

import { el } from "./dom.js";

const ITEM = /^\s*(?:[-*+•]|(\d+)[.)])\s+(.*)$/;
const INLINE = either(
  /(`+)(.+?)\1/, // code
  /\*\*(.+?)\*\*/, // strong
  /\*([^\s*][^*]*?)\*/, // emphasis, in two spellings
  /\b_([^_]+)_\b/,
  /\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/, // a link with a label, and a bare one
  /(https?:\/\/[^\s<>)\]]*[^\s<>)\].,;:!?])/,
);
const MRKDWN = either(
  /<(https?:[^|>]+)(?:\|([^>]*))?>/, // a link
  /<[@#!][^|>]*(?:\|([^>]*))?>/, // someone, a channel or everyone
  /`([^`]+)`/,
  /(?<!\w)\*([^*\n]+)\*(?!\w)/,
  /(?<!\w)_([^_\n]+)_(?!\w)/,
);

/** Joins patterns. Their groups are counted through. */
function either(...patterns) {
  return new RegExp(patterns.map((pattern) => pattern.source).join("|"), "g");
}

/**
 * Shows a text in a container. Blocks that did not change keep their nodes: while an answer streams, only its last
 * block is built anew.
 */
export function render(container, text) {
  const blocks = split(text);
  blocks.forEach((block, index) => {
    const source = JSON.stringify(block);
    const old = container.children[index];
    if (old?.__source === source) return;
    const node = build(block);
    node.__source = source;
    if (old) old.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

/** Cuts a text into blocks. */
function split(text) {
  const blocks = [];
  let open = null;
  const begin = (kind, more = {}) => blocks.push((open = { kind, lines: [], ...more }));
  for (const line of text.split("\n")) {
    if (open?.kind === "code") {
      if (/^\s*```\s*$/.test(line)) open = null;
      else open.lines.push(line);
      continue;
    }
    const heading = /^(#{1,4})\s+(.*)$/.exec(line);
    const item = ITEM.exec(line);
    const quote = /^>\s?(.*)$/.exec(line);
    if (/^\s*```/.test(line)) begin("code");
    else if (!line.trim()) open = null;
    else if (heading) {
      begin("heading");
      open.lines.push(heading[2]);
      open = null;
    } else if (item) {
      const kind = item[1] ? "ol" : "ul";
      if (open?.kind !== kind) begin(kind, { start: item[1] });
      open.lines.push(item[2]);
    } else if (quote) {
      if (open?.kind !== "quote") begin("quote");
      open.lines.push(quote[1]);
    } else if (open && /^\s{2,}/.test(line) && (open.kind === "ul" || open.kind === "ol")) {
      open.lines[open.lines.length - 1] += `\n${line.trim()}`;
    } else {
      if (open?.kind !== "p") begin("p");
      open.lines.push(line);
    }
  }
  return blocks;
}

function build({ kind, lines, start }) {
  switch (kind) {
    case "code":
      return el("pre", { tabindex: 0 }, el("code", { text: lines.join("\n") }));
    case "heading":
      return el("h4", {}, ...inline(lines[0]));
    case "ul":
    case "ol":
      return el(kind, { start }, ...lines.map((line) => el("li", {}, ...inline(line))));
    case "quote":
      return el("blockquote", {}, ...inline(lines.join("\n")));
    default:
      return el("p", {}, ...inline(lines.join("\n")));
  }
}

/** Builds the nodes of a line of text. */
export function inline(text) {
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, , code, strong, emphasis, alike, label, target, bare] = found;
    nodes.push(text.slice(at, found.index));
    if (code !== undefined) nodes.push(el("code", { text: code }));
    else if (strong !== undefined) nodes.push(el("strong", {}, ...inline(strong)));
    else if (label !== undefined) nodes.push(link(target, label));
    else if (bare !== undefined) nodes.push(link(bare, bare));
    else nodes.push(el("em", {}, ...inline(emphasis ?? alike)));
    at = found.index + whole.length;
  }
  nodes.push(text.slice(at));
  return nodes;
}

/** Makes a link. Only http and https may get here: the patterns above ask for them. */
export function link(href, text) {
  return el("a", { href, text, target: "_blank", rel: "noopener noreferrer" });
}

/** Builds the nodes of a text in Slack's own markup: `*bold*`, `_italic_`, `<https://…|label>`, `&amp;`. */
export function mrkdwn(text) {
  const plain = (part) => part.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(MRKDWN)) {
    const [whole, target, label, mention, code, strong, emphasis] = found;
    nodes.push(plain(text.slice(at, found.index)));
    if (target) nodes.push(link(plain(target), plain(label ?? target)));
    else if (code) nodes.push(el("code", { text: plain(code) }));
    else if (strong) nodes.push(el("strong", { text: plain(strong) }));
    else if (emphasis) nodes.push(el("em", { text: plain(emphasis) }));
    else nodes.push(plain(mention ?? whole));
    at = found.index + whole.length;
  }
  nodes.push(plain(text.slice(at)));
  return nodes;
}
