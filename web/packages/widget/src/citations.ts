// Where the numbers of sources stand in an answer. They are put in as characters that no text has, which pass through
// Markdown, and are shown as buttons.

import type { Citation } from "@copilotd/client/parts";

const FIRST = 0xe100;
/** So many sources have a number in the text. */
const MOST = 200;
const MARK = new RegExp(`[${String.fromCharCode(FIRST)}-${String.fromCharCode(FIRST + MOST - 1)}]`, "g");

/** Removes the characters that stand for sources from a text that somebody else wrote. */
export const withoutMarks = (text: string): string => text.replace(MARK, "");

/** Puts a mark behind each sentence that a source supports. */
export function mark(text: string, citations: readonly Citation[]): string {
  const places = citations
    .slice(0, MOST)
    .flatMap(({ at }, index) => (at === undefined ? [] : [{ at, char: String.fromCharCode(FIRST + index) }]))
    .sort((a, b) => a.at - b.at);
  if (!places.length) return withoutMarks(text);
  const bytes = new TextEncoder().encode(text);
  const decoder = new TextDecoder();
  let result = "";
  let from = 0;
  for (const { at, char } of places) {
    const to = Math.min(Math.max(at, from), bytes.length);
    result += withoutMarks(decoder.decode(bytes.subarray(from, to))) + char;
    from = to;
  }
  return result + withoutMarks(decoder.decode(bytes.subarray(from)));
}

/** Splits a text at its marks: texts, and indices of citations. */
export function split(text: string): (string | number)[] {
  const parts: (string | number)[] = [];
  let from = 0;
  for (const match of text.matchAll(MARK)) {
    if (match.index > from) parts.push(text.slice(from, match.index));
    parts.push(match[0].charCodeAt(0) - FIRST);
    from = match.index + 1;
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}
