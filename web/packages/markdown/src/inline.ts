// Emphasis, code, links and the like within one block, by CommonMark's algorithm: a scan that collects texts, marks and
// brackets, and then pairs of marks; `build.ts` makes the tree of them. Each step is linear in the text's length, up to
// constants: no search is repeated that has failed before, and what is looked at ahead is bounded.

import { bareLinkAt, destinationAt, mailAround, type Target } from "./autolink.js";
import { referenceAt } from "./entities.js";
import type { Tag } from "./tree.js";

/** A run of `*`, `_` or `~~`: what is left of it is text, and pairs begin and end at it. */
export interface Run {
  kind: "run";
  mark: string;
  length: number;
  left: number;
  opens: boolean;
  closes: boolean;
  begins: Tag[];
  ends: number;
  /** Which run of the text it is. */
  index: number;
  previous: Run | undefined;
  next: Run | undefined;
}

export interface Bracket {
  kind: "bracket";
  image: boolean;
  /** The last run before it. */
  before: Run | undefined;
  link?: Target;
}

/** A piece of a block's text. `end` is where the link or the image of the last open bracket ends. */
export type Item =
  | string
  | Run
  | Bracket
  | { kind: "end" }
  | { kind: "code"; text: string }
  | { kind: "break" }
  | { kind: "link"; to: string; text: string };

/** Splits a block's text. If it is still being written, bold text and code may end later. */
export function itemsOf(text: string, unfinished: boolean): Item[] {
  return new Scanner(text, unfinished).scan();
}

const SPECIAL = /[\\`*_~[\]!<&\n@hw]/g;
// Characters for private use too: a page may mark places with them, and `**so.**` must be bold in front of one.
const PUNCTUATION = /[\p{P}\p{S}\p{Co}]/u;

class Scanner {
  #items: Item[] = [];
  #brackets: Bracket[] = [];
  #head: Run | undefined;
  #last: Run | undefined;
  #runs = 0;
  /** So many brackets at the bottom cannot become links, because a link inside them has ended. */
  #inactive = 0;
  /** Lengths of backtick runs of which there is none left. */
  #missing = new Set<number>();

  constructor(
    readonly text: string,
    readonly unfinished: boolean,
  ) {}

  scan(): Item[] {
    const { text } = this;
    let at = 0;
    while (at < text.length) {
      SPECIAL.lastIndex = at;
      const next = SPECIAL.exec(text)?.index ?? text.length;
      if (next > at) this.#items.push(text.slice(at, next));
      at = next < text.length ? this.#special(next) : next;
    }
    this.#pair(undefined);
    return this.#items;
  }

  /** Reads what begins with a special character; returns the position after it. */
  #special(at: number): number {
    const { text } = this;
    const character = text[at] as string;
    switch (character) {
      case "\\": {
        const escaped = text[at + 1] ?? "";
        if (escaped === "\n") return this.#push({ kind: "break" }, at + 2);
        return /[!-/:-@[-`{-~]/.test(escaped) ? this.#push(escaped, at + 2) : this.#push("\\", at + 1);
      }
      case "`":
        return this.#code(at);
      case "*":
      case "_":
      case "~":
        return this.#run(at, character);
      case "!":
        if (text[at + 1] !== "[") return this.#push("!", at + 1);
        return this.#bracket(true, at + 2);
      case "[":
        return this.#bracket(false, at + 1);
      case "]":
        return this.#close(at);
      case "&": {
        const [decoded, after] = referenceAt(text, at) ?? ["&", at + 1];
        return this.#push(decoded, after);
      }
      case "\n": {
        const before = this.#items.at(-1);
        const words = typeof before === "string" ? before.trimEnd() : "";
        const hard = typeof before === "string" && before.endsWith("  ");
        if (typeof before === "string") this.#items[this.#items.length - 1] = words;
        return this.#push(hard ? { kind: "break" } : "\n", at + 1);
      }
      case "@":
        return this.#mail(at);
      default: {
        const link = bareLinkAt(text, at, this.unfinished);
        if (!link) return this.#push(character, at + 1);
        return this.#push(link.to === undefined ? link.text : { kind: "link", to: link.to, text: link.text }, link.after);
      }
    }
  }

  #push(item: Item, after: number): number {
    this.#items.push(item);
    return after;
  }

  #code(at: number): number {
    const { text } = this;
    let from = at;
    while (text[from] === "`") from += 1;
    const length = from - at;
    const content = (end: number): Item => {
      const code = text.slice(from, end).replaceAll("\n", " ");
      return { kind: "code", text: /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code };
    };
    if (!this.#missing.has(length)) {
      for (let end = from; (end = text.indexOf("`", end)) >= 0; ) {
        let after = end;
        while (text[after] === "`") after += 1;
        if (after - end === length) return this.#push(content(end), after);
        end = after;
      }
      this.#missing.add(length);
      if (this.unfinished && from < text.length) return this.#push(content(text.length), text.length);
    }
    return this.#push(text.slice(at, from), from);
  }

  #run(at: number, mark: string): number {
    const { text } = this;
    let after = at;
    while (text[after] === mark) after += 1;
    const length = after - at;
    const [a, b] = [kindOf(text[at - 1] ?? " "), kindOf(text[after] ?? " ")];
    const left = b !== "space" && (b === "word" || a !== "word");
    const right = a !== "space" && (a === "word" || b !== "word");
    const inWord = mark === "_";
    const run: Run = {
      kind: "run",
      mark,
      length,
      left: length,
      opens: left && (!inWord || !right || a === "mark") && (mark !== "~" || length === 2),
      closes: right && (!inWord || !left || b === "mark") && (mark !== "~" || length === 2),
      begins: [],
      ends: 0,
      index: (this.#runs += 1),
      previous: this.#last,
      next: undefined,
    };
    if (this.#last) this.#last.next = run;
    else this.#head = run;
    this.#last = run;
    return this.#push(run, after);
  }

  #bracket(image: boolean, after: number): number {
    const bracket: Bracket = { kind: "bracket", image, before: this.#last };
    this.#brackets.push(bracket);
    return this.#push(bracket, after);
  }

  /** Reads `](address "title")` if a bracket is open. */
  #close(at: number): number {
    const bracket = this.#brackets.pop();
    const active = bracket && (bracket.image || this.#brackets.length >= this.#inactive);
    this.#inactive = Math.min(this.#inactive, this.#brackets.length);
    const target = active ? destinationAt(this.text, at + 1) : undefined;
    if (!bracket || !target) return this.#push("]", at + 1);
    bracket.link = target;
    this.#pair(bracket.before);
    this.#last = bracket.before;
    if (this.#last) this.#last.next = undefined;
    else this.#head = undefined;
    // A link has no links inside.
    if (!bracket.image) this.#inactive = this.#brackets.length;
    return this.#push({ kind: "end" }, target.after);
  }

  #mail(at: number): number {
    const found = mailAround(this.text, at);
    let missing = found?.local.length ?? 0;
    const last = this.#items.at(-1);
    if (!found || typeof last !== "string") return this.#push("@", at + 1);
    // The name before the @ is at the end of what has been pushed; it may be in several pieces.
    let kept = this.#items.length;
    for (; missing > 0 && kept > 0; kept -= 1) {
      const piece = this.#items[kept - 1];
      if (typeof piece !== "string") return this.#push("@", at + 1);
      missing -= piece.length;
    }
    const first = this.#items[kept];
    this.#items.length = kept;
    if (missing < 0 && typeof first === "string") this.#items.push(first.slice(0, -missing));
    const text = this.text.slice(at - found.local.length, found.after);
    return this.#push({ kind: "link", to: `mailto:${text}`, text }, found.after);
  }

  /** Pairs the runs after one. */
  #pair(bottom: Run | undefined): void {
    const lowest = bottom?.index ?? 0;
    /** For each kind of closing run, the index up to which nothing opens it. */
    const floors = new Map<string, number>();
    let run = bottom ? bottom.next : this.#head;
    while (run) {
      const next: Run | undefined = run.next;
      if (!run.closes) {
        run = next;
        continue;
      }
      const kind = `${run.mark}${run.opens}${run.length % 3}`;
      const floor = floors.get(kind) ?? lowest;
      let opener = run.previous;
      while (opener && opener.index > floor && !pairs(opener, run)) opener = opener.previous;
      if (!opener || opener.index <= floor) {
        floors.set(kind, run.index - 1);
        if (!run.opens) this.#unlink(run);
        run = next;
        continue;
      }
      const width = run.left > 1 && opener.left > 1 ? 2 : 1;
      opener.left -= width;
      run.left -= width;
      opener.begins.push(run.mark === "~" ? "del" : width === 2 ? "strong" : "em");
      run.ends += 1;
      // What is between them pairs with nothing outside.
      opener.next = run;
      run.previous = opener;
      if (opener.left === 0) this.#unlink(opener);
      if (run.left === 0) {
        this.#unlink(run);
        run = next;
      }
    }
    if (this.unfinished && !bottom) this.#leaveOpen();
  }

  /** Lets bold and struck text without an end go on to the end of what is written so far. */
  #leaveOpen(): void {
    for (let run = this.#head; run; run = run.next) {
      if (!run.opens || run.left < 2 || run.mark === "_" || this.#items.at(-1) === run) continue;
      run.left -= 2;
      run.begins.push(run.mark === "~" ? "del" : "strong");
    }
  }

  #unlink(run: Run): void {
    if (run.previous) run.previous.next = run.next;
    else this.#head = run.next;
    if (run.next) run.next.previous = run.previous;
    else this.#last = run.previous;
  }
}

function kindOf(character: string): "space" | "mark" | "word" {
  return /\s/.test(character) ? "space" : PUNCTUATION.test(character) ? "mark" : "word";
}

function pairs(opener: Run, closer: Run): boolean {
  if (!opener.opens || opener.mark !== closer.mark) return false;
  // The rule of three: what both opens and closes must not make `**a*b**` ambiguous.
  const both = (opener.closes || closer.opens) && closer.length % 3 !== 0;
  return !both || (opener.length + closer.length) % 3 !== 0;
}
