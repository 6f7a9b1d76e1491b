// The chat: header, list, composer, history.

import { useEffect, useRef, useState } from "preact/hooks";

import { ChatContext, useStore, type Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { History } from "./history.js";
import type { Keep } from "./keep.js";
import { List } from "./list.js";
import { IconButton, ProblemText } from "./parts.js";
import { sentenceOf } from "./problems.js";
import { RowView } from "./row.js";

interface Props {
  chat: Chat;
  keep: Keep;
  /** Counts the times that the chat was opened by a person. */
  focus: number;
}

export function Panel({ chat, keep, focus }: Props) {
  const { session, text, host } = chat;
  const shown = useStore(session.subscribe, session.getShown);
  const [isHistory, setHistory] = useState(false);
  const [isAtEnd, setAtEnd] = useState(true);
  const [own, setOwn] = useState(0);
  const list = useRef<List>(null);
  const { rows, snapshot } = shown;
  // A list is opened at its end.
  useEffect(() => setAtEnd(true), [shown.opening, isHistory]);
  const isLost = snapshot?.status === "reconnecting" && snapshot.error !== null;
  const isLoading = snapshot !== null && snapshot.position === null && !snapshot.error;
  const leave = () => {
    setHistory(false);
    setOwn(own + 1);
  };
  const begin = () => {
    session.show(null);
    leave();
  };
  return (
    <ChatContext.Provider value={chat}>
      <div class="head">
        {isHistory ? (
          <IconButton icon="back" label={text("back")} onClick={leave} class="flip" />
        ) : (
          <IconButton icon="menu" label={text("history")} onClick={() => setHistory(true)} class="flip" />
        )}
        <h2>{isHistory ? text("history") : text("title")}</h2>
        <IconButton icon="plus" label={text("newConversation")} onClick={begin} />
        {!host.inline && <IconButton icon="close" label={text("close")} onClick={() => host.close()} />}
      </div>
      {isLost && (
        <div class="banner">
          <p>{text(snapshot.error?.code === "sign_in_failed" ? "error_sign_in_failed" : "reconnecting")}</p>
        </div>
      )}
      {isHistory ? (
        <History
          onOpen={(id) => {
            session.show({ id });
            leave();
          }}
        />
      ) : (
        <>
          {rows.length || snapshot ? (
            <List
              key={shown.opening}
              handle={list}
              keys={rows.map(({ key }) => key)}
              label={text("conversation")}
              onTop={() => session.loadEarlier()}
              onEnd={setAtEnd}
              render={(index) => {
                const row = rows[index]!;
                const rating = row.kind === "status" ? session.ratingOf(row.turn) : null;
                return <RowView row={row} chat={chat} rating={rating} />;
              }}
            />
          ) : (
            <Welcome chat={chat} onSend={() => setOwn(own + 1)} />
          )}
          {isLoading && !rows.length && <p class="muted loading">{text("loading")}</p>}
          {snapshot?.status === "failed" && (
            <ProblemText problem={sentenceOf(snapshot.error)}>
              <span class="buttons">
                <button type="button" onClick={() => session.reopen()}>
                  {text("tryAgain")}
                </button>
              </span>
            </ProblemText>
          )}
          {!isAtEnd && rows.length > 0 && (
            <IconButton icon="down" class="to-end" label={text("toEnd")} onClick={() => list.current?.toEnd()} />
          )}
          <Composer shown={shown} keep={keep} focus={focus + own} onSent={() => list.current?.toEnd()} />
        </>
      )}
    </ChatContext.Provider>
  );
}

function Welcome({ chat, onSend }: { chat: Chat; onSend: () => void }) {
  const { host, session, text } = chat;
  const starters = host.starters ?? [];
  const send = (starter: string) => {
    // A failure shows beside the message, which the outbox keeps.
    void session.send(starter).catch(() => {});
    onSend();
  };
  return (
    <div class="welcome">
      <p class="greeting" dir="auto">
        {host.greeting ?? text("greeting")}
      </p>
      {starters.length > 0 && (
        <ul class="starters" aria-label={text("starters")}>
          {starters.slice(0, 8).map((starter) => (
            <li key={starter}>
              <button type="button" dir="auto" onClick={() => send(starter)}>
                {starter}
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
