// Reads a stream with npm's unmodified `eventsource` until its turn has ended; prints what it received as a JSON line.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.COPILOTD_NODE_MODULES}/`);
const { EventSource } = require("eventsource");

const names = [
  "turn.queued", "turn.started", "context.assembled", "message.delta", "message.reset", "message.completed",
  "turn.completed", "turn.failed", "turn.cancelled",
];
const events = [];
const source = new EventSource(process.argv[2]);
const late = setTimeout(() => finish(1), 60_000);

function finish(code) {
  clearTimeout(late);
  source.close();
  console.log(JSON.stringify(events));
  process.exitCode = code;
}

for (const name of names) {
  source.addEventListener(name, (event) => {
    events.push([name, event.lastEventId, JSON.parse(event.data)]);
    if (name === "turn.completed" || name === "turn.failed" || name === "turn.cancelled") finish(0);
  });
}
