import assert from "node:assert/strict";
import { test } from "node:test";

import { opening } from "../src/chat.js";
import { BOOKS, totals } from "../src/product/data.js";
import { left } from "../src/time.js";

test("the tiles of the sample product add up", () => {
  const invoice = (status, amount) => ({ status, amount });
  const invoices = [invoice("open", 1), invoice("overdue", 10), invoice("disputed", 100), invoice("paid", 1000)];
  assert.deepEqual(totals(invoices), { outstanding: 111, overdue: 10, paid: 1000 });
  for (const { invoices } of Object.values(BOOKS)) {
    const { outstanding, paid } = totals(invoices);
    assert.equal(outstanding + paid, invoices.reduce((sum, { amount }) => sum + amount, 0));
    assert.equal(new Set(invoices.map(({ number }) => number)).size, invoices.length);
  }
});

test("the page offers to open an invoice that is there, to any model", () => {
  for (const { invoices } of Object.values(BOOKS)) {
    const invoice = invoices.find(({ status }) => status === "overdue");
    assert.ok(invoice);
    assert.equal(opening(invoice, false).text, `Open the invoice ${invoice.number}`);
    assert.ok(opening(invoice, true).text.includes(`tool=open_invoice args={"number":"${invoice.number}"}`));
  }
});

test("the time that is left is said to the second, and never below zero", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  for (const [until, said] of [
    ["2026-01-01T01:00:00Z", "1:00:00"],
    ["2026-01-01T00:59:12Z", "59:12"],
    ["2026-01-01T00:00:07Z", "0:07"],
    ["2025-12-31T23:00:00Z", "0:00"],
  ])
    assert.equal(left(until, now), said);
});
