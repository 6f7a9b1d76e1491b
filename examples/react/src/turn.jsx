// One turn: what was asked, what was answered and done, and what waits for a decision. It is rendered for its own events
// only, however fast another turn's text grows.

import { isEnded, wordsOf } from "@copilotd/client";
import { useTurn } from "@copilotd/react";
import { useState } from "react";

export function Turn({ copilotd, view, id }) {
  const turn = useTurn(view, id);
  if (!turn) return null;
  return (
    <section data-status={turn.status}>
      <p className="question">{wordsOf(turn.input)}</p>
      {turn.items.map((item) => {
        if (item.kind === "text") return item.text && <p key={item.id} className="answer">{item.text}</p>;
        if (item.kind !== "tool") return null;
        if (item.status === "awaiting_approval") return <Approval key={item.id} turn={copilotd.turn(id)} call={item} />;
        return <p key={item.id} className="tool">{`${item.name}: ${item.status}`}</p>;
      })}
      {turn.error && <p className="error">{turn.error.message}</p>}
      {!isEnded(turn) && <p role="status">{turn.waiting ? "Waiting…" : "Answering…"}</p>}
    </section>
  );
}

function Approval({ turn, call }) {
  const [problem, setProblem] = useState(null);
  const [isDecided, setDecided] = useState(false);
  const decide = (decision) => async () => {
    setDecided(true);
    try {
      await decision();
    } catch (error) {
      setProblem(error.message);
      setDecided(false);
    }
  };
  return (
    <p className="approval">
      {`${call.name} ${JSON.stringify(call.arguments)} `}
      <button disabled={isDecided} onClick={decide(() => turn.approve(call.id))}>
        Approve
      </button>
      <button disabled={isDecided} onClick={decide(() => turn.reject(call.id))}>
        Reject
      </button>
      {problem && <span className="error">{problem}</span>}
    </p>
  );
}
