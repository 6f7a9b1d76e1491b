// User tokens for copilotd: JSON Web Tokens that your backend signs. No library is needed for HS256.

import { createHmac } from "node:crypto";

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/**
 * Signs a token for one of your users. Short-lived: the client asks for a new one when it expires.
 *
 * `issuer` and `secret` are those of `[[tenants.issuers]]` in copilotd's configuration. Users need no other scope.
 */
export function userToken({ issuer, tenant, secret, scope = "chat" }, user, seconds = 600) {
  const now = Math.floor(Date.now() / 1000);
  const header = { alg: "HS256", typ: "JWT" };
  const claims = { iss: issuer, aud: "copilotd", sub: user, tenant, scope, iat: now, exp: now + seconds };
  const signed = `${part(header)}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
