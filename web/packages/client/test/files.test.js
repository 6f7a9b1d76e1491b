import assert from "node:assert/strict";
import test from "node:test";

import { clientOf } from "./check.js";
import { problem } from "./fake.js";

const FILE = { id: "file_1", name: "a.txt", media_type: "text/plain", bytes: 3, conversation_id: "conv_1" };

/** Answers with each of a list in turn, and keeps what it was asked. */
function serverOf(...answers) {
  const requests = [];
  const fetch = async (url, init) => {
    requests.push({ url, ...init });
    return answers.length > 1 ? answers.shift() : answers[0].clone();
  };
  return { requests, fetch };
}

test("an upload is a form whose first part names the conversation", async () => {
  const server = serverOf(Response.json(FILE, { status: 201 }));
  const file = await clientOf(server).files.upload("conv_1", new Blob(["abc"], { type: "text/plain" }), { name: "a.txt" });
  assert.deepEqual(file, FILE);
  const [{ url, method, headers, body }] = server.requests;
  assert.ok(url.endsWith("/v1/files"));
  assert.equal(method, "POST");
  assert.equal(headers["content-type"], undefined, "fetch adds it with the boundary");
  assert.ok(headers["idempotency-key"]);
  const [[first, id], [second, content]] = [...body.entries()];
  assert.deepEqual([first, id, second, content.name, content.type], ["conversation_id", "conv_1", "file", "a.txt", "text/plain"]);
  assert.equal(await content.text(), "abc");
});

test("an upload is sent again under the same key", async () => {
  const server = serverOf(problem(503, "overloaded"), Response.json(FILE, { status: 201 }));
  await clientOf(server).files.upload("conv_1", new File(["abc"], "own.txt"));
  const [first, second] = server.requests;
  assert.equal(first.headers["idempotency-key"], second.headers["idempotency-key"]);
  assert.equal(second.body.get("file").name, "own.txt");
});

test("what the server does not accept is not sent again", async () => {
  const server = serverOf(problem(415, "unsupported_media_type"));
  const error = await clientOf(server).files.upload("conv_1", new Blob(["abc"])).catch((error) => error);
  assert.equal(error.code, "unsupported_media_type");
  assert.equal(server.requests.length, 1);
});

test("a file is read with the token and deleted once", async () => {
  const server = serverOf(new Response("abc"), new Response(null, { status: 204 }), problem(404, "not_found"));
  const { files } = clientOf(server);
  assert.equal(await (await files.read("file_1")).text(), "abc");
  await files.delete("file_1");
  await files.delete("file_1");
  assert.ok(server.requests.every(({ url }) => url === files.url("file_1")));
  assert.deepEqual(server.requests.map(({ method }) => method), ["GET", "DELETE", "DELETE"]);
  assert.ok(server.requests.every(({ headers }) => headers.authorization));
});
