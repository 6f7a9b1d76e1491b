// Addresses: those in links, those in angle brackets and those that stand in the text.

import { unescape } from "./entities.js";

/** Longer addresses and titles are text: what is looked at ahead must be bounded. */
const MAX_LENGTH = 2048;

/** What follows a link's text. */
export interface Target {
  to: string;
  title: string;
  after: number;
}

const SPACE = /[ \t\n]{0,64}/y;
const ENCLOSED = /<((?:[^\\<>\n]|\\.){0,2048})>/y;
const TITLES = [/"((?:[^\\"]|\\[^]){0,2048})"/y, /'((?:[^\\']|\\[^]){0,2048})'/y, /\(((?:[^\\()]|\\[^]){0,2048})\)/y];

/** Reads `(address "title")` at a position. */
export function destinationAt(text: string, at: number): Target | undefined {
  if (text[at] !== "(") return undefined;
  let after = matchAt(SPACE, text, at + 1)?.after ?? at + 1;
  const enclosed = matchAt(ENCLOSED, text, after);
  const to = enclosed ? enclosed.found : bareAt(text, after);
  if (to === undefined) return undefined;
  after = enclosed ? enclosed.after : after + to.length;
  const space = matchAt(SPACE, text, after)?.after ?? after;
  let title = "";
  if (space > after)
    for (const pattern of TITLES) {
      const match = matchAt(pattern, text, space);
      if (!match) continue;
      title = match.found;
      after = match.after;
      break;
    }
  after = matchAt(SPACE, text, after)?.after ?? after;
  return text[after] === ")" ? { to: unescape(to), title: unescape(title), after: after + 1 } : undefined;
}

/** Reads an address up to white space or a parenthesis that was not opened in it. */
function bareAt(text: string, at: number): string | undefined {
  let depth = 0;
  let after = at;
  for (; after < text.length; after += 1) {
    const character = text[after] as string;
    if (after - at > MAX_LENGTH || depth > 32 || (after === at && character === "<")) return undefined;
    if (character === "\\") after += 1;
    else if (character === "(") depth += 1;
    else if (character === ")" && --depth < 0) break;
    else if (character <= " ") break;
  }
  return depth > 0 ? undefined : text.slice(at, after);
}

/** An address in the text; without `to` it is text after all. */
export interface BareLink {
  to?: string;
  text: string;
  after: number;
}

const ANGLE = /<(?:([A-Za-z][A-Za-z\d+.-]{1,31}:[^\s<>]{0,2048})|([\w.+-]{1,64}@[A-Za-z\d.-]{1,253}))>/y;
// Ideographic punctuation ends an address: in Japanese and Chinese no space follows it. So do characters for private
// use, with which a page may mark places in a text.
const WEB = /(?:https?:\/\/|www\.)[^\s<>"`[\]\\。，、；：！？（）「」『』【】〈〉《》\ue000-\uf8ff]{1,2048}/y;
const TRAIL = /[?!.,:;*_~'|\]}]$/;

/** Reads `<address>` or a web address at a position. One at the end may be unfinished, and then it is text. */
export function bareLinkAt(text: string, at: number, unfinished: boolean): BareLink | undefined {
  if (text[at] === "<") {
    ANGLE.lastIndex = at;
    const match = ANGLE.exec(text);
    if (!match) return undefined;
    const written = match[1] ?? match[2] ?? "";
    return { to: match[1] ?? `mailto:${match[2]}`, text: written, after: at + match[0].length };
  }
  if (/[\w/.:@-]/.test(text[at - 1] ?? " ")) return undefined;
  WEB.lastIndex = at;
  const match = WEB.exec(text);
  if (!match) return undefined;
  const whole = match[0];
  if (unfinished && at + whole.length === text.length) return { text: whole, after: text.length };
  const written = trimmed(whole);
  if (!/^(?:https?:\/\/|www\.)[^/?#]*[^/?#.]/.test(written)) return { text: whole, after: at + whole.length };
  return { to: written.startsWith("www.") ? `https://${written}` : written, text: written, after: at + written.length };
}

/** Removes what belongs to the sentence: punctuation at the end, and parentheses that the address does not open. */
function trimmed(address: string): string {
  let excess = address.split(")").length - address.split("(").length;
  let end = address.length;
  for (; end > 0; end -= 1) {
    if (address[end - 1] === ")") {
      if (excess <= 0) break;
      excess -= 1;
    } else if (!TRAIL.test(address[end - 1] ?? "")) break;
  }
  return address.slice(0, end);
}

const DOMAIN = /[a-z\d][a-z\d-]{0,62}(?:\.[a-z\d-]{0,61}[a-z\d]){1,6}/yi;

/** Finds a mail address around an `@`. */
export function mailAround(text: string, at: number): { local: string; after: number } | undefined {
  const local = /[\w.+-]+$/.exec(text.slice(Math.max(0, at - 65), at))?.[0] ?? "";
  if (local === "" || local.length > 64) return undefined;
  DOMAIN.lastIndex = at + 1;
  const domain = DOMAIN.exec(text)?.[0];
  return domain === undefined ? undefined : { local, after: at + 1 + domain.length };
}

/** Matches a sticky pattern at a position. */
function matchAt(pattern: RegExp, text: string, at: number): { found: string; after: number } | undefined {
  pattern.lastIndex = at;
  const match = pattern.exec(text);
  return match ? { found: match[1] ?? "", after: at + match[0].length } : undefined;
}
