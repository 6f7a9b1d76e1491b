// What tests of several files check and need.

import assert from "node:assert/strict";

import { createClient, textOf } from "../dist/index.js";
import { textsOf } from "./fake.js";

/** A client of a fake server that waits next to nothing between attempts. */
export const clientOf = (server, more = {}) =>
  createClient({
    baseUrl: "http://fake",
    token: server.issue ?? (() => "token"),
    fetch: server.fetch,
    backoff: { base: 1, cap: 2 },
    ...more,
  });

/** Waits until something is true, and for the time that a test may take at most. */
export async function until(isTrue, what = "a condition", ms = 5_000) {
  for (const end = Date.now() + ms; !isTrue(); ) {
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Checks that a state holds the texts, calls and ends of the log, in order. */
export function checkState(state, timeline) {
  const texts = Object.fromEntries(
    state.turns.map((turn) => [turn.id, turn.items.filter(({ kind }) => kind === "text").map(({ text }) => text)]),
  );
  assert.deepEqual(texts, textsOf(timeline));
  for (const turn of state.turns) {
    const own = timeline.filter(({ data }) => data.turn_id === turn.id);
    assert.equal(`turn.${turn.status}`, own.at(-1).type);
    const calls = own.filter(({ type }) => type === "tool.finished").map(({ data }) => `${data.call_id} succeeded`);
    const tools = turn.items.filter(({ kind }) => kind === "tool").map(({ id, status }) => `${id} ${status}`);
    assert.deepEqual(tools, calls);
    assert.ok(turn.items.every((item) => item.kind !== "text" || !item.isOpen), "nothing is left open");
    assert.equal(textOf(turn), texts[turn.id].findLast((text) => text) ?? "");
  }
}
