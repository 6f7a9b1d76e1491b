// Whose chat this is, as the user token says. Only for names of what the browser keeps: the server checks the token.

/**
 * A name for the user of a token: everything in it that tells users apart. Null for a token that is no JWT: nothing may
 * be kept for a user that nobody knows.
 */
export function identityOf(token: string): string | null {
  try {
    const payload = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    const { iss, tenant, sub } = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    if (typeof sub !== "string" || !sub) return null;
    return JSON.stringify([iss ?? null, tenant ?? null, sub]);
  } catch {
    return null;
  }
}

/** The hash of a name, so that another user of the browser does not read who was here. */
export async function hashOf(name: string): Promise<string> {
  // Pages without TLS have no `crypto.subtle`.
  const { subtle } = crypto as Partial<Crypto>;
  if (!subtle) return encodeURIComponent(name);
  const hash = new Uint8Array(await subtle.digest("SHA-256", new TextEncoder().encode(name)));
  return Array.from(hash.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
