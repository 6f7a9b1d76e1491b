// What the parser returns, and the closed lists of what can be in it.

/** A text, or an element. A `key` is stable while the text grows: blocks of one key are the same block. */
export type Node = string | Element;

/** An element of the tree. Its tag and its attributes are of `TAGS`. */
export interface Element {
  tag: Tag;
  attrs: Record<string, string>;
  children: Node[];
  key?: string;
}

/** Every tag that can occur, with every attribute that it can have. */
export const TAGS = {
  p: [],
  h3: [],
  h4: [],
  h5: [],
  h6: [],
  ul: [],
  ol: ["start"],
  /** `task` is `open` or `done`; the box itself is the item's first character. */
  li: ["task"],
  blockquote: [],
  /** A block of code: its only child is the code. `lang` is the first word after the fence. */
  pre: ["lang"],
  code: [],
  em: [],
  strong: [],
  del: [],
  a: ["href", "title"],
  img: ["src", "alt", "title"],
  br: [],
  hr: [],
  table: [],
  thead: [],
  tbody: [],
  tr: [],
  /** `align` is `left`, `center` or `right`. */
  th: ["align"],
  td: ["align"],
} as const satisfies Record<string, readonly string[]>;

/** A tag that can occur. */
export type Tag = keyof typeof TAGS;

/** The elements that one text may still become. What comes after the last one is plain text. */
export interface Budget {
  left: number;
}

/** Makes an element, and pays for it. */
export function element(budget: Budget, tag: Tag, children: Node[] = [], attrs: Record<string, string> = {}): Element {
  budget.left -= 1;
  return { tag, attrs, children };
}

/** Appends a node; texts that meet become one. */
export function append(nodes: Node[], node: Node): void {
  const last = nodes.length - 1;
  const before = nodes[last];
  if (typeof node === "string" && typeof before === "string") nodes[last] = before + node;
  else if (node !== "") nodes.push(node);
}

/** Returns the text of nodes, without their elements. An image's text is its alternative text. */
export function textOf(nodes: readonly Node[]): string {
  let text = "";
  for (const node of nodes) {
    if (typeof node === "string") text += node;
    else if (node.tag === "br") text += "\n";
    else text += node.tag === "img" ? (node.attrs["alt"] ?? "") : textOf(node.children);
  }
  return text;
}
