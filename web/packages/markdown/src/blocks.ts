// Splits a text into blocks, line by line, as CommonMark does: a line continues the open containers, then may begin
// others, and what is left of it belongs to a leaf. The work per line is bounded by its length and `MAX_DEPTH`.

import { unescape } from "./entities.js";
import { Line } from "./line.js";
import { alignments, cellsOf, type Alignment } from "./table.js";

/** Containers inside each other; what is nested deeper is text. A list and its item count as two. */
export const MAX_DEPTH = 20;

/** Where a block is in the source: its offset, its first line and the last line that is not blank. */
interface Place {
  start: number;
  first: number;
  last: number;
}

export type Leaf = Place &
  (
    | { kind: "paragraph"; lines: string[]; offsets: number[] }
    | { kind: "heading"; level: number; text: string }
    | { kind: "code"; lines: string[]; lang: string; fence?: { mark: string; indent: number } }
    | { kind: "table"; align: Alignment[]; rows: string[][] }
    | { kind: "break" }
  );

export type Container = Place & { children: Block[] } & (
    | { kind: "root" }
    | { kind: "quote" }
    | { kind: "list"; mark: string; number: number }
    | { kind: "item"; indent: number }
  );

export type Block = Leaf | Container;

const HEADING = /^(#{1,6})(?:[ \t]+|$)/;
const HEADING_END = /(?:^|[ \t])#+[ \t]*$/;
const FENCE = /^(?:(`{3,})([^`]*)|(~{3,})(.*))$/;
const BREAK = /^(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const MARKER = /^(?:([-+*])|(\d{1,9})([.)]))(?=[ \t]|$)/;

/** The blocks of a text, and where the last one begins that its whole lines know: all before it can no longer change. */
export interface Blocks {
  blocks: Block[];
  settled: number;
}

/** Reads a message from an offset on, where a block must begin, to its end. */
export function blocksOf(message: string, offset: number): Blocks {
  const reader = new Reader();
  let settled = offset;
  for (let at = offset; at < message.length; ) {
    const end = message.indexOf("\n", at);
    if (end < 0) settled = reader.root.children.at(-1)?.start ?? offset;
    const next = end < 0 ? message.length : end;
    reader.read(message.slice(at, message[next - 1] === "\r" && next > at ? next - 1 : next), at);
    at = next + 1;
    if (end >= 0 && at === message.length) settled = reader.root.children.at(-1)?.start ?? offset;
  }
  return { blocks: reader.root.children, settled };
}

class Reader {
  readonly root: Container = { kind: "root", start: 0, first: 0, last: 0, children: [] };
  /** The containers that are open, outermost first. */
  #open: Container[] = [this.root];
  #leaf: Leaf | undefined;
  #number = 0;

  read(text: string, offset: number): void {
    this.#number += 1;
    const line = new Line(text);
    const matched = this.#continued(line);
    const whole = matched === this.#open.length;
    if (whole && this.#leaf?.kind === "code" && this.#inCode(line, this.#leaf)) return;
    this.#begin(line, offset, matched);
  }

  /** Reads what continues the open containers; returns how many it does. */
  #continued(line: Line): number {
    let depth = 1;
    for (; depth < this.#open.length; depth += 1) {
      const container = this.#open[depth] as Container;
      if (container.kind === "quote") {
        if (line.indent > 3 || line.words[0] !== ">") break;
        line.marker(1);
        line.indented(1);
      } else if (container.kind === "item") {
        if (line.blank) {
          // An item may begin with one blank line, not with two.
          if (container.children.length === 0) break;
        } else if (line.indent >= container.indent) line.indented(container.indent);
        else break;
      }
    }
    // A list goes on only with its item or with another one, which `#list` finds.
    return this.#open[depth - 1]?.kind === "list" ? depth - 1 : depth;
  }

  /** Takes a line of code; returns whether it belongs to the open block. */
  #inCode(line: Line, code: Leaf & { kind: "code" }): boolean {
    const { fence } = code;
    if (fence) {
      const words = line.words;
      if (line.indent < 4 && words.startsWith(fence.mark) && /^(?:`+|~+)[ \t]*$/.test(words)) this.#leaf = undefined;
      else {
        line.indented(fence.indent);
        code.lines.push(line.rest);
      }
      this.#touch(code);
      return true;
    }
    if (!line.blank && line.indent < 4) return false;
    const blank = line.blank;
    line.indented(4);
    code.lines.push(line.rest);
    if (!blank) this.#touch(code);
    return true;
  }

  /** Begins the blocks that a line begins, and gives its text to a leaf. */
  #begin(line: Line, offset: number, matched: number): void {
    const paragraph = this.#leaf?.kind === "paragraph" ? this.#leaf : undefined;
    const table = this.#leaf?.kind === "table" ? this.#leaf : undefined;
    let whole = matched === this.#open.length;
    /** Closes what the line does not continue; after it, nothing of the line before is open. */
    const close = (): void => {
      this.#open.length = matched;
      this.#leaf = undefined;
    };
    while (!line.blank) {
      const words = line.words;
      // The indentation of a list's marker is the item's own, so code needs four columns more.
      if (line.indent > 3) {
        if (this.#leaf?.kind === "paragraph") break;
        close();
        line.indented(4);
        const code: Leaf = { kind: "code", lines: [line.rest], lang: "", ...this.#place(offset) };
        this.#add(code);
        this.#leaf = code;
        return;
      }
      const deep = matched + 2 > MAX_DEPTH;
      if (words[0] === ">" && !deep) {
        close();
        line.marker(1);
        line.indented(1);
        this.#enter({ kind: "quote", children: [], ...this.#place(offset) });
      } else if (this.#single(line, words, offset, close)) return;
      else if (deep || !this.#list(line, words, offset, matched, whole, close)) break;
      matched = this.#open.length;
      whole = true;
    }
    if (line.blank) {
      // A blank line ends every leaf but code, which has taken it, and every container that needs a mark per line.
      // An empty item before it is closed, but not its list.
      if (!whole) this.#open.length = this.#open[matched]?.kind === "list" ? matched + 1 : matched;
      this.#leaf = undefined;
      return;
    }
    if (this.#leaf !== undefined && this.#leaf === paragraph) {
      if (whole && this.#table(paragraph, line.words)) return;
      // Also a lazy one: a paragraph goes on without the marks of its containers.
      paragraph.lines.push(line.words);
      paragraph.offsets.push(offset);
      this.#touch(paragraph);
      return;
    }
    if (whole && this.#leaf !== undefined && this.#leaf === table) {
      table.rows.push(cellsOf(line.words, table.align.length));
      this.#touch(table);
      return;
    }
    close();
    const begun: Leaf = { kind: "paragraph", lines: [line.words], offsets: [offset], ...this.#place(offset) };
    this.#add(begun);
    this.#leaf = begun;
  }

  /** Begins a leaf that needs one line to be known; returns whether there was one. */
  #single(line: Line, words: string, offset: number, close: () => void): boolean {
    const place = this.#place(offset);
    let leaf: Leaf;
    let match;
    if ((match = HEADING.exec(words))) {
      const text = words.slice(match[0].length).replace(HEADING_END, "").trim();
      leaf = { kind: "heading", level: match[1]?.length ?? 1, text, ...place };
    } else if ((match = FENCE.exec(words))) {
      const lang = unescape((match[2] ?? match[4] ?? "").trim().split(/\s/, 1)[0] ?? "");
      leaf = { kind: "code", lines: [], lang, fence: { mark: match[1] ?? match[3] ?? "", indent: line.indent }, ...place };
    } else if (BREAK.test(words)) leaf = { kind: "break", ...place };
    else return false;
    close();
    this.#add(leaf);
    if (leaf.kind === "code") this.#leaf = leaf;
    return true;
  }

  /** Begins an item, and a list unless the item belongs to the one before; returns whether there was a marker. */
  #list(line: Line, words: string, offset: number, matched: number, whole: boolean, close: () => void): boolean {
    const match = MARKER.exec(words);
    if (!match) return false;
    const [marker, bullet, digits] = match;
    const mark = bullet ?? match[3] ?? "";
    const empty = words.slice(marker.length).trim() === "";
    const inside = this.#open[matched];
    const sibling = inside?.kind === "list" && inside.mark === mark;
    // In the middle of a paragraph a number is more likely a year, and a dash a dash.
    if (whole && this.#leaf?.kind === "paragraph" && (empty || (digits !== undefined && Number(digits) !== 1))) return false;
    close();
    if (sibling) this.#open.push(inside);
    else this.#enter({ kind: "list", mark, number: digits === undefined ? 1 : Number(digits), children: [], ...this.#place(offset) });
    const before = line.indent;
    line.marker(marker.length);
    const space = line.indent;
    // White space of five columns and more is one column and code.
    const indent = empty || space > 4 ? 1 : space;
    line.indented(indent);
    this.#enter({ kind: "item", indent: before + marker.length + indent, children: [], ...this.#place(offset) });
    return true;
  }

  /** Makes a table of a paragraph's last line if a line is a delimiter row for it. */
  #table(paragraph: Leaf & { kind: "paragraph" }, words: string): boolean {
    const align = alignments(words);
    const header = paragraph.lines.at(-1);
    if (!align || header === undefined || !header.includes("|") && align.length > 1) return false;
    const cells = cellsOf(header, Infinity);
    if (cells.length !== align.length) return false;
    const start = paragraph.offsets.at(-1) ?? paragraph.start;
    paragraph.lines.pop();
    paragraph.offsets.pop();
    const parent = this.#open.at(-1) as Container;
    if (paragraph.lines.length === 0) parent.children.pop();
    else paragraph.last -= 1;
    const table: Leaf = { kind: "table", align, rows: [cells], start, first: this.#number - 1, last: this.#number };
    this.#add(table);
    this.#leaf = table;
    return true;
  }

  #place(start: number): Place {
    return { start, first: this.#number, last: this.#number };
  }

  #add(block: Block): void {
    this.#open.at(-1)?.children.push(block);
    this.#touch(block);
  }

  #enter(container: Container): void {
    this.#add(container);
    this.#open.push(container);
  }

  /** The block, and with it every container around it, has something on this line. */
  #touch(block: Block): void {
    block.last = this.#number;
    for (const container of this.#open) container.last = this.#number;
  }
}
