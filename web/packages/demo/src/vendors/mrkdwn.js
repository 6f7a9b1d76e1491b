// Slack's own markup as DOM nodes: `*bold*`, `_italic_`, `<https://…|label>`, `&amp;`. What it does not know stays the
// text it is.

import { el } from "../dom.js";

const MRKDWN = new RegExp(
  [
    /<(https?:[^|>]+)(?:\|([^>]*))?>/, // a link
    /<[@#!][^|>]*(?:\|([^>]*))?>/, // someone, a channel or everyone
    /`([^`]+)`/,
    /(?<!\w)\*([^*\n]+)\*(?!\w)/,
    /(?<!\w)_([^_\n]+)_(?!\w)/,
  ]
    .map((pattern) => pattern.source)
    .join("|"),
  "g",
);

/** Cuts a text into its parts: plain strings, and `{kind, text, href?}`. */
export function parts(text) {
  const plain = (part) => part.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  const found = [];
  let at = 0;
  for (const match of text.matchAll(MRKDWN)) {
    const [whole, target, label, mention, code, strong, emphasis] = match;
    found.push(plain(text.slice(at, match.index)));
    if (target) found.push({ kind: "link", href: plain(target), text: plain(label ?? target) });
    else if (code) found.push({ kind: "code", text: plain(code) });
    else if (strong) found.push({ kind: "strong", text: plain(strong) });
    else if (emphasis) found.push({ kind: "em", text: plain(emphasis) });
    else found.push(plain(mention ?? whole));
    at = match.index + whole.length;
  }
  found.push(plain(text.slice(at)));
  return found.filter((part) => part !== "");
}

/** Builds the nodes of a text. A link can only be http or https: the pattern asks for it. */
export function mrkdwn(text) {
  return parts(text).map((part) => {
    if (typeof part === "string") return part;
    if (part.kind !== "link") return el(part.kind, { text: part.text });
    return el("a", { href: part.href, text: part.text, target: "_blank", rel: "noopener noreferrer" });
  });
}
