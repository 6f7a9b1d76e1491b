import assert from "node:assert/strict";
import test from "node:test";

import { retryAfterOf } from "../dist/index.js";

const NOW = Date.parse("Mon, 30 Nov 2026 12:00:00 GMT");

for (const [value, expected] of [
  [null, undefined],
  ["", undefined],
  ["0", 0],
  ["3", 3000],
  [" 120 ", 120_000],
  ["Mon, 30 Nov 2026 12:00:05 GMT", 5000],
  ["Mon, 30 Nov 2026 11:00:00 GMT", 0],
  ["soon", undefined],
  ["-1", undefined],
]) {
  test(`Retry-After ${JSON.stringify(value)} is ${expected} ms`, () => assert.equal(retryAfterOf(value, NOW), expected));
}
