// Character references: all numeric ones, and the names that models write.

const NAMES: Record<string, string> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
  copy: "©",
  reg: "®",
  trade: "™",
  hellip: "…",
  ndash: "–",
  mdash: "—",
  lsquo: "‘",
  rsquo: "’",
  ldquo: "“",
  rdquo: "”",
  laquo: "«",
  raquo: "»",
  bull: "•",
  middot: "·",
  times: "×",
  deg: "°",
  euro: "€",
  pound: "£",
  larr: "←",
  rarr: "→",
  le: "≤",
  ge: "≥",
  ne: "≠",
};

const REFERENCE = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|([a-z]{2,6}));/y;

/** Reads the reference at a position: its character and the position after it. An unknown name is no reference. */
export function referenceAt(text: string, at: number): [string, number] | undefined {
  REFERENCE.lastIndex = at;
  const match = REFERENCE.exec(text);
  if (!match) return undefined;
  const [whole, decimal, hex, name] = match;
  const character = name === undefined ? fromCode(decimal ? Number(decimal) : parseInt(hex ?? "", 16)) : NAMES[name];
  return character === undefined ? undefined : [character, at + whole.length];
}

function fromCode(code: number): string {
  const valid = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  return valid ? String.fromCodePoint(code) : "\ufffd";
}

const ESCAPED = /\\[!-/:-@[-`{-~]|&[#\w]{2,8};/g;

/** Resolves the escapes and references of an address, a title or the words after a fence. */
export function unescape(text: string): string {
  return text.replace(ESCAPED, (found) => (found[0] === "\\" ? found.slice(1) : (referenceAt(found, 0)?.[0] ?? found)));
}
