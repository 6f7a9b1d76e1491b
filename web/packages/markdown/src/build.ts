// Makes nodes of blocks. Everything that can become an attribute passes here.

import type { Block } from "./blocks.js";
import { itemsOf, type Bracket, type Item } from "./inline.js";
import { address, withoutTurns, type Policy } from "./policy.js";
import { append, element, textOf, type Budget, type Element, type Node, type Tag } from "./tree.js";

/** Elements inside each other in one block; deeper ones have no effect. */
const MAX_NESTING = 16;

/** What all blocks of a message share. */
export interface Context {
  policy: Policy;
  budget: Budget;
}

/** Builds a block. If its end is also the end of a text that is still being written, its last text may go on. */
export function build(block: Block, context: Context, unfinished: boolean): Element {
  const { budget } = context;
  switch (block.kind) {
    case "paragraph":
      return element(budget, "p", inline(block.lines.join("\n"), context, unfinished));
    case "heading": {
      // The page has the outline's first two levels.
      const tag = `h${Math.min(block.level + 2, 6)}` as Tag;
      return element(budget, tag, inline(block.text, context, unfinished));
    }
    case "break":
      return element(budget, "hr");
    case "code": {
      let end = block.lines.length;
      if (!block.fence) while (block.lines[end - 1] === "") end -= 1;
      const text = block.lines.slice(0, end).join("\n");
      return element(budget, "pre", text === "" ? [] : [text], { lang: block.lang });
    }
    case "table":
      return table(block, context, unfinished);
    case "list": {
      const loose = isLoose(block.children);
      const items = each(block.children, context, unfinished, (item, open) => listItem(item, context, open, loose));
      if (!/[.)]/.test(block.mark)) return element(budget, "ul", items);
      return element(budget, "ol", items, block.number === 1 ? {} : { start: String(block.number) });
    }
    case "quote":
    case "item":
    case "root":
      return element(budget, "blockquote", each(block.children, context, unfinished, (b, open) => build(b, context, open)));
  }
}

function table(block: Block & { kind: "table" }, context: Context, unfinished: boolean): Element {
  const { budget } = context;
  const row = (tag: Tag, cells: string[], last: boolean): Element =>
    element(
      budget,
      "tr",
      cells.map((cell, index) => {
        const align = block.align[index] ?? "";
        const content = inline(cell, context, last && index === cells.length - 1);
        return element(budget, tag, content, align === "" ? {} : { align });
      }),
    );
  const [header = [], ...rows] = block.rows;
  const head = element(budget, "thead", [row("th", header, false)]);
  const body: Element[] = [];
  for (const [index, cells] of rows.entries()) {
    if (budget.left <= 0) {
      body.push(row("td", [rows.slice(index).map((rest) => rest.join(" | ")).join("\n")], false));
      break;
    }
    body.push(row("td", cells, unfinished && index === rows.length - 1));
  }
  return element(budget, "table", body.length === 0 ? [head] : [head, element(budget, "tbody", body)]);
}

/** Builds blocks until the budget is spent; what is left is one text. */
function each(
  blocks: readonly Block[],
  context: Context,
  unfinished: boolean,
  make: (block: Block, open: boolean) => Node,
): Node[] {
  const nodes: Node[] = [];
  for (const [index, block] of blocks.entries()) {
    if (context.budget.left <= 0) {
      nodes.push(blocks.slice(index).map(sourceOf).join("\n"));
      break;
    }
    nodes.push(make(block, unfinished && index === blocks.length - 1));
  }
  return nodes;
}

const TASK = /^\[([ xX])\](?=[ \t\n])/;

function listItem(item: Block, context: Context, unfinished: boolean, loose: boolean): Node {
  const blocks = "children" in item ? item.children : [];
  const [first] = blocks;
  const task = first?.kind === "paragraph" ? TASK.exec(first.lines[0] + "\n") : null;
  if (task && first?.kind === "paragraph") first.lines[0] = (first.lines[0] ?? "").slice(task[0].length);
  const done = task !== null && task[1] !== " ";
  const children: Node[] = [];
  const box = task ? (done ? "☑" : "☐") : "";
  const built = each(blocks, context, unfinished, (block, open) => {
    const node = build(block, context, open);
    if (block === first && box !== "") node.children.unshift(box);
    return node;
  });
  for (const node of built) {
    // The paragraphs of a tight list are not paragraphs of their own.
    if (!loose && typeof node === "object" && node.tag === "p") {
      if (children.length > 0 && typeof children.at(-1) === "string") append(children, "\n");
      for (const child of node.children) append(children, child);
    } else children.push(node);
  }
  return element(context.budget, "li", children, task ? { task: done ? "done" : "open" } : {});
}

/** Whether a blank line is between two items, or between two blocks of an item. */
function isLoose(items: readonly Block[]): boolean {
  const apart = (blocks: readonly Block[]): boolean =>
    blocks.some((block, index) => index > 0 && block.first > (blocks[index - 1]?.last ?? 0) + 1);
  return apart(items) || items.some((item) => "children" in item && apart(item.children));
}

/** The text of a block that is not built. */
function sourceOf(block: Block): string {
  switch (block.kind) {
    case "paragraph":
    case "code":
      return block.lines.join("\n");
    case "heading":
      return block.text;
    case "table":
      return block.rows.map((cells) => cells.join(" | ")).join("\n");
    case "break":
      return "";
    default:
      return block.children.map(sourceOf).join("\n");
  }
}

/** Builds the nodes of one block's text. */
function inline(text: string, { policy, budget }: Context, unfinished: boolean): Node[] {
  if (text === "") return [];
  if (budget.left <= 0) return [text];
  const tree = new Tree(policy, budget);
  for (const item of itemsOf(text.trimEnd(), unfinished)) tree.add(item);
  return tree.end();
}

/** An element that is not ended yet. Without a tag it has no effect, and `nodes` are its parent's. */
interface Frame {
  nodes: Node[];
  tag?: Tag;
  bracket?: Bracket;
}

class Tree {
  #frames: Frame[] = [{ nodes: [] }];
  /** How many links are open. */
  #links = 0;

  constructor(
    readonly policy: Policy,
    readonly budget: Budget,
  ) {}

  get #nodes(): Node[] {
    return (this.#frames.at(-1) as Frame).nodes;
  }

  add(item: Item): void {
    if (typeof item === "string") return this.#text(item);
    switch (item.kind) {
      case "code":
        return this.#append(element(this.budget, "code", [item.text]));
      case "break":
        return this.#append(element(this.budget, "br"));
      case "link": {
        const { href } = address(item.to, this.policy);
        if (href === undefined || this.#links > 0) return this.#text(withoutTurns(item.text));
        return this.#append(element(this.budget, "a", [withoutTurns(item.text)], { href }));
      }
      case "run":
        for (let ends = item.ends; ends > 0; ends -= 1) this.#leave();
        this.#text(item.mark.repeat(item.left));
        // The last pair that was found is the outermost.
        for (const tag of item.begins.reverse()) this.#enter({ nodes: [], tag });
        return;
      case "bracket":
        if (!item.link) return this.#text(item.image ? "![" : "[");
        if (!item.image) this.#links += 1;
        return this.#enter({ nodes: [], tag: item.image ? "img" : "a", bracket: item });
      case "end":
        return this.#leave();
    }
  }

  end(): Node[] {
    while (this.#frames.length > 1) this.#leave();
    return this.#nodes;
  }

  #text(text: string): void {
    append(this.#nodes, this.#links > 0 ? withoutTurns(text) : text);
  }

  #append(node: Node): void {
    append(this.#nodes, node);
  }

  #enter(frame: Frame): void {
    if (this.#frames.length > MAX_NESTING && !frame.bracket) this.#frames.push({ nodes: this.#nodes });
    else this.#frames.push(frame);
  }

  #leave(): void {
    const { nodes, tag, bracket } = this.#frames.pop() as Frame;
    if (bracket?.link) this.#target(nodes, bracket);
    else if (tag && this.budget.left > 0) this.#append(element(this.budget, tag, nodes));
    else if (tag) for (const node of nodes) this.#append(node);
  }

  /** Ends a link or an image: the element if its address is allowed, else its text with the address. */
  #target(nodes: Node[], { image, link }: Bracket): void {
    const { to, title } = link as NonNullable<Bracket["link"]>;
    if (!image) this.#links -= 1;
    const { href, shown } = to === "" ? { href: undefined, shown: "" } : address(to, this.policy, image);
    const attrs: Record<string, string> = title === "" ? {} : { title };
    const label = textOf(nodes).trim();
    if (href !== undefined && image && this.budget.left > 0)
      return this.#append(element(this.budget, "img", [], { src: href, alt: label, ...attrs }));
    if (href !== undefined && !image && this.budget.left > 0)
      return this.#append(element(this.budget, "a", label === "" ? [...nodes, shown] : nodes, { href, ...attrs }));
    if (image) this.#text(label);
    else for (const node of nodes) this.#append(node);
    // What it would have told is not lost.
    const told = [title, shown].filter((text) => text !== "" && text !== label).join(" ");
    if (told !== "") this.#text(label === "" ? told : ` (${told})`);
  }
}
