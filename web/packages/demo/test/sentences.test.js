import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError } from "../src/api.js";
import { failure, fields, outcome, refusal } from "../src/sentences.js";

/** Asserts that a person may read it: a sentence, no code, no JSON, no status. */
function readable(text) {
  assert.match(text, /^[A-Z].*[.]$/);
  assert.doesNotMatch(text, /[a-z]_[a-z]|[{}[\]]|\b[45]\d\d\b|undefined/);
}

test("whatever goes wrong is told in a sentence", () => {
  const errors = [
    new ApiError(0, {}),
    new ApiError(404, { code: "not_found", detail: "no conversation conv_1" }),
    new ApiError(418, { code: "never_heard_of", detail: "{}" }),
    new ApiError(500, {}),
    new ApiError(429, { code: "rate_limited" }, 12),
    new TypeError("x is undefined"),
  ];
  for (const error of errors) readable(refusal(error));
  for (const code of ["limit_steps", "never_heard_of", undefined]) readable(failure(code));
  for (const status of ["failed", "rejected", "cancelled", "unknown"])
    for (const name of ["zendesk_get_ticket", "slack_post_message"]) readable(outcome({ name, status }));
});

test("a refusal says when to try again", () => {
  const after = (seconds) => refusal(new ApiError(429, { code: "rate_limited" }, seconds));
  assert.match(after(11.2), /in 12 seconds\.$/);
  assert.match(after(0.4), /in a moment\.$/);
  assert.match(after(undefined), /in a moment\.$/);
});

test("the fields of a form that are wrong are named, each once", () => {
  const error = new ApiError(422, {
    code: "invalid",
    errors: [{ pointer: "/arguments/subject" }, { pointer: "/arguments/subject" }, { pointer: "/arguments/ticket_id" }],
  });
  const given = { subject: "", ticket_id: "oops" };
  assert.equal(
    fields(error, given),
    "Please fill in “subject”.\nPlease check “ticket id”: this is not possible there.",
  );
  readable(fields(new ApiError(422, { code: "invalid" }), given));
});
