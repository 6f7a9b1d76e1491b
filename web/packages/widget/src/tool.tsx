// A tool call: what it does, how far it is, and what came of it.

import type { ToolItem } from "@copilotd/client/parts";

import { useChat } from "./chat.js";
import type { Text } from "./messages/en.js";
import { Icon } from "./parts.js";

const STATES: Readonly<Record<ToolItem["status"], Text>> = {
  proposed: "toolProposed",
  awaiting_approval: "needsApproval",
  running: "toolRunning",
  succeeded: "toolSucceeded",
  failed: "toolFailed",
  rejected: "toolRejected",
  cancelled: "toolCancelled",
  unknown: "toolUnknown",
};

/** More of a result than this is not shown, in UTF-16 units. */
const LONGEST = 4000;

/** What the server says of a client tool's call that no page has taken; it has no code. */
const UNCLAIMED = /^no page of the user took this call/;

export function Tool({ item }: { item: ToolItem }) {
  const { text, tool } = useChat();
  return (
    <details class="tool" data-call={item.id} data-status={item.status}>
      <summary>
        <Icon name="tool" />
        <span class="name" dir="auto">
          {tool(item.name)}
        </span>
        <span class="state">{text(UNCLAIMED.test(item.error ?? "") ? "toolNotRun" : STATES[item.status])}</span>
      </summary>
      <h3>{text("arguments")}</h3>
      <Value value={item.arguments} />
      {item.result !== undefined && (
        <>
          <h3>{text("result")}</h3>
          <Value value={item.result} />
        </>
      )}
    </details>
  );
}

/** A value from outside, as text. */
function Value({ value }: { value: unknown }) {
  const text = typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "");
  return (
    <pre dir="ltr" tabIndex={0}>
      {text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text}
    </pre>
  );
}
