// Which addresses a chat may show as links and images.

import type { Origins } from "./contract.js";

export interface Policy {
  links: (url: URL) => boolean;
  images: (url: URL) => boolean;
}

/** Without a list, links may lead to every mail and `https` address, and images come only from the page's own origin. */
export function policyOf(links: Origins | null, images: Origins | null, own: string): Policy {
  return {
    links: (url) => url.protocol === "mailto:" || url.origin === own || allows(links ?? ["*"], url),
    images: (url) => url.origin === own || allows(images ?? [], url),
  };
}

function allows(origins: Origins, url: URL): boolean {
  if (url.protocol !== "https:" && url.protocol !== "http:") return false;
  return origins.some((origin) => (origin === "*" ? url.protocol === "https:" : origin === url.origin));
}
