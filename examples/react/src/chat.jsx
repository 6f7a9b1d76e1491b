// A conversation: its turns, the messages on their way, and a field for the next one. The conversation's id is in the
// address, so a reload shows it again, and an answer that is being written goes on.

import { useConversation } from "@copilotd/react";
import { useState } from "react";

import { Turn } from "./turn.jsx";

export function Chat({ copilotd }) {
  const [id, setId] = useState(() => location.hash.slice(1) || null);
  const [problem, setProblem] = useState(null);
  const conversation = useConversation(copilotd, id);
  const { turnIds, view, outbox, isBusy, status, error, hasEarlier } = conversation;

  async function ask(event) {
    event.preventDefault();
    const form = event.currentTarget;
    const question = new FormData(form).get("question");
    try {
      setProblem(null);
      let to = id;
      if (to === null) {
        ({ id: to } = await copilotd.conversations.create({ title: "From React" }));
        history.replaceState(null, "", `#${to}`);
        setId(to);
      }
      await copilotd.outbox.add(to, { input: question });
      form.reset();
    } catch (error) {
      setProblem(error.message);
    }
  }

  return (
    <main>
      {status === "reconnecting" && <p role="status">Connection lost. Reconnecting…</p>}
      {status === "failed" && <p className="error">{error?.message}</p>}
      {hasEarlier && <button onClick={conversation.loadEarlier}>Earlier messages</button>}
      {turnIds.map((turn) => (
        <Turn key={turn} copilotd={copilotd} view={view} id={turn} />
      ))}
      {outbox.map(({ key, body, status }) => (
        <p key={key} className="question">
          {body.input} <small>{status === "failed" ? "not sent" : "sending…"}</small>
        </p>
      ))}
      <form onSubmit={ask}>
        <label>
          Question <input name="question" required maxLength={1000} autoComplete="off" />
        </label>
        <button disabled={isBusy}>Ask</button>
        {isBusy && (
          <button type="button" onClick={conversation.cancel}>
            Stop
          </button>
        )}
      </form>
      {problem && <p className="error">{problem}</p>}
    </main>
  );
}
