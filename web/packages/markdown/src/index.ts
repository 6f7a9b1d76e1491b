// Markdown as a tree of harmless elements. Nothing here touches a document: a page builds its nodes of the tree.

import { blocksOf, type Block } from "./blocks.js";
import { build, type Context } from "./build.js";
import type { Policy } from "./policy.js";
import { cellsOf } from "./table.js";
import type { Node } from "./tree.js";

export { allowOrigins, type Policy } from "./policy.js";
export { TAGS, textOf, type Element, type Node, type Tag } from "./tree.js";

/** Characters of a message that are read as Markdown; what follows is one plain paragraph. */
export const MAX_LENGTH = 200_000;
/** Elements of a message; what follows is one plain paragraph. */
export const MAX_ELEMENTS = 10_000;

/** Parses a whole message. */
export function parse(text: string, policy: Policy): Node[] {
  return new Markdown(policy).parse(text);
}

/**
 * Parses a message that grows. What can no longer change is parsed once, and the same objects are returned for it again.
 * For the same text it returns what `parse` does, unless the text is `unfinished`: then what is not decided yet at its
 * end is left out or shown as what it will most likely be.
 */
export class Markdown {
  #policy: Policy;
  #text = "";
  /** Where the next block begins, and what came before it. */
  #offset = 0;
  #nodes: Node[] = [];
  #left = MAX_ELEMENTS;

  constructor(policy: Policy) {
    this.#policy = policy;
  }

  parse(text: string, unfinished = false): Node[] {
    // `startsWith` compares one character at a time, some hundred times slower than this.
    if (text.slice(0, this.#text.length) !== this.#text) {
      this.#offset = 0;
      this.#nodes = [];
      this.#left = MAX_ELEMENTS;
    }
    this.#text = text;
    const cut = cutOf(text);
    const source = text.slice(0, cut);
    const written = unfinished && cut === text.length ? decided(source) : source;
    // What is left out may begin a block, so only what has been decided settles another.
    const { blocks, settled } = blocksOf(written, this.#offset);
    const context: Context = { policy: this.#policy, budget: { left: this.#left } };
    const nodes: Node[] = [];
    for (const [index, block] of blocks.entries()) {
      if (context.budget.left <= 0) {
        nodes.push({ tag: "p", attrs: {}, children: [source.slice(block.start)], key: "rest" });
        break;
      }
      if (block.start === settled) {
        this.#nodes = [...this.#nodes, ...nodes.splice(0)];
        this.#offset = settled;
        this.#left = context.budget.left;
      }
      nodes.push(keyed(block, context, unfinished && index === blocks.length - 1));
    }
    const all = [...this.#nodes, ...nodes];
    if (cut < text.length) all.push({ tag: "p", attrs: {}, children: [text.slice(cut)], key: "long" });
    return all;
  }
}

function keyed(block: Block, context: Context, unfinished: boolean): Node {
  const likely = unfinished ? asTable(block) : block;
  return { ...build(likely, context, unfinished), key: String(block.start) };
}

/** A line between pipes is the head of a table whose delimiter row is not written yet. */
function asTable(block: Block): Block {
  if (block.kind !== "paragraph" || block.lines.length !== 1 || !/^\|.*\|/.test(block.lines[0] ?? "")) return block;
  const { start, first, last } = block;
  return { kind: "table", align: [], rows: [cellsOf(block.lines[0] ?? "", Infinity)], start, first, last };
}

/** Where a long text is cut: at the end of a line if there is one. */
function cutOf(text: string): number {
  if (text.length <= MAX_LENGTH) return text.length;
  return text.lastIndexOf("\n", MAX_LENGTH - 1) + 1 || MAX_LENGTH;
}

// A line's beginning that may still become a marker, and marks at the end that may still begin or end something.
const UNDECIDED = /^[ \t>]*(?:[-+*]{1,2}|\d{1,9}[.)]?|#{1,6}|`{1,2}|~{1,2}|\|?[-:| \t]*|[-+*][ \t]+(?:\[(?:[ xX]\]?)?)?)$/;

/** Leaves out the end of a text that is still being written if it is not decided what it is. */
function decided(text: string): string {
  const line = text.lastIndexOf("\n") + 1;
  const last = text.slice(line);
  if (last.length < 200 && UNDECIDED.test(last)) return text.slice(0, line);
  let end = text.length;
  while (end > text.length - 3 && "*_~`".includes(text[end - 1] ?? " ")) end -= 1;
  return text.slice(0, end);
}
