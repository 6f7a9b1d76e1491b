// Which addresses a chat may show as links and images.

import type { Origins } from "./contract.js";

export interface Policy {
  links: (url: URL) => boolean;
  images: (url: URL) => boolean;
}

/**
 * Links may lead to mail addresses, and links and images to the `own` origins and those of the lists. A model may be
 * talked into writing any other address, with what it knows of the user in it.
 */
export function policyOf(links: Origins | null, images: Origins | null, own: readonly string[]): Policy {
  return {
    links: (url) => url.protocol === "mailto:" || own.includes(url.origin) || allows(links ?? [], url),
    images: (url) => own.includes(url.origin) || allows(images ?? [], url),
  };
}

function allows(origins: Origins, url: URL): boolean {
  if (url.protocol !== "https:" && url.protocol !== "http:") return false;
  return origins.some((origin) => (origin === "*" ? url.protocol === "https:" : origin === url.origin));
}
