// Random conversations and random misfortunes.

import fc from "fast-check";

/** Pieces of text with characters of one to four bytes, and everything that a line end could be. */
const piece = fc.string({ unit: "grapheme", minLength: 1, maxLength: 12 }).chain((text) =>
  fc.constantFrom(text, `${text}\n`, `${text}\r\n\r\n`, `🚀${text}`, `data: ${text}`, `\u2028${text}\ufeff`),
);

const step = fc.record({
  pieces: fc.array(piece, { maxLength: 6 }),
  end: fc.constantFrom("completed", "completed", "completed", "reset"),
  notice: fc.boolean(),
  call: fc.boolean(),
});

/** Turns as `timelineOf` takes them. */
export const turns = (options = {}) =>
  fc.array(
    fc.record({
      steps: fc.array(step, { minLength: 1, maxLength: 4 }),
      end: fc.constantFrom("completed", "completed", "failed", "cancelled"),
    }),
    { minLength: 1, maxLength: 4, ...options },
  );

const passes = fc.nat(6);

/** What may happen to one connection. */
export const fault = fc.oneof(
  fc.record({ kind: fc.constantFrom("refused", "busy", "proxy", "expired"), passes }),
  fc.record({ kind: fc.constantFrom("cut", "broken"), after: fc.nat(900), passes }),
);
