import assert from "node:assert/strict";
import test from "node:test";

import { Announcer } from "../dist/announce.js";

const turn = (id, status) => ({ id, status });

test("two announcements for each answer, whatever comes between", () => {
  for (const [name, known, steps, expected] of [
    ["an answer", [], ["queued", "running", "running", "running", "completed", "completed"], ["answering", "complete"]],
    ["one that was missed while the page slept", [], ["completed"], ["answering", "complete"]],
    ["one that was there", [turn("a", "completed")], ["completed"], []],
    ["one that goes on after a reload", [turn("a", "running")], ["running", "completed"], ["answering", "complete"]],
    ["one that fails", [], ["running", "failed"], ["answering", "failed"]],
    ["one that is stopped before it begins", [], ["queued", "cancelled"], ["answering", "stopped"]],
    [
      "one that waits for a person twice",
      [],
      ["running", "awaiting_approval", "awaiting_approval", "running", "awaiting_approval", "running", "completed"],
      ["answering", "needsApproval", "needsApproval", "complete"],
    ],
  ]) {
    const announcer = new Announcer();
    announcer.skip(known);
    assert.deepEqual(steps.flatMap((status) => announcer.next([turn("a", status)])), expected, name);
  }
});
