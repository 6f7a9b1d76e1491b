// What went wrong, as the name of a sentence: what happened, and what to do. Never a code or a server's own words.

import type { Text } from "./messages/en.js";

/** Codes of requests and of failed turns that share the sentence of another one. The others have `error_<code>`. */
const SAME: Readonly<Record<string, string>> = {
  limit_cost: "limit",
  limit_steps: "limit",
  limit_time: "limit",
  malformed: "invalid",
  outbox_full: "queue_full",
  overloaded: "unavailable",
  schema_failed: "attempts_exhausted",
};

export interface Sentence {
  /** Name of the sentence; perhaps of none, for a code that this version does not know. */
  readonly name: `error_${string}`;
  /** To be told to whoever looks into it, where the sentence alone does not say what is wrong. */
  readonly id?: string | undefined;
}

/** The sentence for a code. */
export const sentenceFor = (code: string, id?: string): Sentence => ({
  name: `error_${Object.hasOwn(SAME, code) ? SAME[code]! : code}`,
  id,
});

/** The sentence for a request that failed. */
export function sentenceOf(error: unknown): Sentence {
  const { code, requestId } = (typeof error === "object" && error ? error : {}) as Record<string, unknown>;
  return sentenceFor(String(code ?? "internal"), typeof requestId === "string" ? requestId : undefined);
}

/** The sentence's words, and the id if they say little. */
export function wordsOf(sentence: Sentence, text: (name: Text) => string): { words: string; id?: string | undefined } {
  const words = text(sentence.name as Text);
  const isGeneral = !words || sentence.name === "error_internal";
  return isGeneral ? { words: text("error_internal"), id: sentence.id } : { words };
}
