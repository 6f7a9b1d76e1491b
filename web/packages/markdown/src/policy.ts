// Which addresses may become links and images.

/** Decides about addresses. Only `http:`, `https:` and, for links, `mailto:` are asked about; all else is refused. */
export interface Policy {
  links: (url: URL) => boolean;
  images: (url: URL) => boolean;
  /** What relative addresses are relative to. Without it they are refused. */
  base?: string;
}

/** Allows links to some origins and to mail addresses, and images of some origins. */
export function allowOrigins(links: Iterable<string>, images: Iterable<string> = [], base?: string): Policy {
  const [linked, shown] = [new Set(links), new Set(images)];
  return {
    links: (url) => url.protocol === "mailto:" || linked.has(url.origin),
    images: (url) => shown.has(url.origin),
    ...(base === undefined ? {} : { base }),
  };
}

/** What becomes of an address: `href` if it is allowed, and what a reader is shown instead of a link. */
export interface Address {
  href: string | undefined;
  shown: string;
}

/** Characters that turn the direction of the text around them, or that are not seen. */
const HIDDEN = /[\p{Cc}\p{Cf}]/gu;
const TURNING = /[\u202a-\u202e\u2066-\u2069]/g;

/** Removes the characters that could make a link's text read as another one. */
export function withoutTurns(text: string): string {
  return text.replace(TURNING, "");
}

/** Checks an address. What is checked is what becomes the link: the address as the URL parser writes it. */
export function address(written: string, policy: Policy, image = false): Address {
  let url: URL;
  try {
    url = new URL(written, policy.base);
  } catch {
    return { href: undefined, shown: written.replace(HIDDEN, "") };
  }
  const web = url.protocol === "https:" || url.protocol === "http:";
  // A name before an @ makes https://acme.example@evil.example look like the address of somebody else.
  const plain = url.username === "" && url.password === "";
  const allowed = plain && (image ? web && policy.images(url) : (web || url.protocol === "mailto:") && policy.links(url));
  return { href: allowed ? url.href : undefined, shown: url.href };
}
