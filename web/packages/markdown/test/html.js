// Writes a tree as HTML, so that expectations can be read.

import { allowOrigins } from "../dist/index.js";

/** Links to one origin, images of another. */
export const policy = allowOrigins(["https://acme.example"], ["https://img.example"]);

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");

export function html(node) {
  if (Array.isArray(node)) return node.map(html).join("");
  if (typeof node === "string") return escape(node);
  const attrs = Object.entries(node.attrs).map(([name, value]) => ` ${name}="${escape(value)}"`);
  const start = `<${node.tag}${attrs.join("")}>`;
  return ["br", "hr", "img"].includes(node.tag) ? start : `${start}${html(node.children)}</${node.tag}>`;
}
