import assert from "node:assert/strict";
import test from "node:test";

import { hashOf, identityOf } from "../dist/identity.js";
import { Keep, memory } from "../dist/keep.js";

const token = (claims) => `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;

test("a token names its user", () => {
  const ada = identityOf(token({ iss: "https://acme.example", tenant: "acme", sub: "ada", exp: 1 }));
  assert.equal(identityOf(token({ iss: "https://acme.example", tenant: "acme", sub: "ada", exp: 2 })), ada, "renewed");
  const others = [{ sub: "bob" }, { tenant: "globex" }, { iss: "https://globex.example" }, { sub: "ädå 日本" }];
  const names = others.map((more) => identityOf(token({ iss: "https://acme.example", tenant: "acme", sub: "ada", ...more })));
  assert.equal(new Set([ada, ...names]).size, others.length + 1);
  for (const none of ["", "cpk_key", "a.b.c", token({}), token({ sub: 7 }), token(null)]) assert.equal(identityOf(none), null);
});

test("names are hashed", async () => {
  const hash = await hashOf("ada");
  assert.match(hash, /^[0-9a-f]{32}$/);
  assert.equal(await hashOf("ada"), hash);
  assert.notEqual(await hashOf("bob"), hash);
});

test("what is kept comes back for the same user only", () => {
  const storage = memory();
  const [ada, bob] = [new Keep(storage, "ada"), new Keep(storage, "bob")];
  ada.current = { id: "conv_1" };
  ada.setDraft("conv_1", "half a sent");
  assert.deepEqual(new Keep(storage, "ada").current, { id: "conv_1" });
  assert.equal(ada.draftOf("conv_1"), "half a sent");
  assert.equal(ada.draftOf("conv_2"), "");
  assert.equal(bob.current, null);
  assert.equal(bob.draftOf("conv_1"), "");
  ada.current = null;
  assert.equal(ada.current, null);
});

test("what somebody else wrote, or a storage that fails, is as if nothing was kept", () => {
  for (const value of ["", "{", "7", '"x"', "{}", '{"id":7}', '{"draft":{}}', '{"draft":{"key":"a"}}']) {
    assert.equal(new Keep({ getItem: () => value }, "ada").current, null, value);
    assert.equal(new Keep({ getItem: () => value }, "ada").draftOf("a"), "", value);
  }
  const failing = () => {
    throw new Error("full");
  };
  const keep = new Keep({ getItem: failing, setItem: failing, removeItem: failing }, "ada");
  keep.current = { id: "conv_1" };
  keep.setDraft("conv_1", "text");
  assert.equal(keep.current, null);
});
