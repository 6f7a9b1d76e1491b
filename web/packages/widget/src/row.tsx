// One row of the list. A row is drawn again only when what it shows has changed.

import { filesOf, isEnded, textOf, wordsOf, type TurnState } from "@copilotd/client/parts";
import { Component } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { Approval } from "./approval.js";
import { useAction, useChat, type Chat } from "./chat.js";
import { mark } from "./citations.js";
import { SentFile } from "./files.js";
import { FeedbackButtons, FeedbackComment } from "./feedback.js";
import { Markdown } from "./markdown.js";
import { CopyButton, IconButton, ProblemText } from "./parts.js";
import { sentenceFor, sentenceOf } from "./problems.js";
import type { Row } from "./rows.js";
import type { Feedback } from "./session.js";
import { Sources } from "./sources.js";
import { Tool } from "./tool.js";

interface Props {
  row: Row;
  chat: Chat;
  rating: Feedback | null;
}

export class RowView extends Component<Props> {
  override shouldComponentUpdate(next: Props): boolean {
    return next.chat !== this.props.chat || next.rating !== this.props.rating || differs(next.row, this.props.row);
  }

  override render({ row, rating }: Props) {
    switch (row.kind) {
      case "user":
        return <Said turn={row.turn} canEdit={row.canEdit} />;
      case "outgoing":
        return <Outgoing row={row} />;
      case "text":
        return <Answer row={row} />;
      case "tool":
        return row.item.status === "awaiting_approval" && !isEnded(row.turn) ? (
          <Approval turn={row.turn.id} item={row.item} />
        ) : (
          <Tool item={row.item} />
        );
      case "notice":
        return <Note row={row} />;
      case "status":
        return <Status turn={row.turn} isLast={row.isLast} rating={rating} />;
    }
  }
}

/** Whether two rows of one key look different. A turn is a new object with each piece of text. */
function differs(a: Row, b: Row): boolean {
  if (a.kind === "outgoing" || b.kind === "outgoing") {
    return a.kind !== b.kind || (a as typeof b & { entry: unknown }).entry !== (b as { entry: unknown }).entry;
  }
  if (a.kind === "status" && b.kind === "status") {
    const [x, y] = [a.turn, b.turn];
    return a.isLast !== b.isLast || x.status !== y.status || x.waiting !== y.waiting || isEnded(x) !== isEnded(y);
  }
  if (a.kind === "user") return a.canEdit !== (b as typeof a).canEdit;
  return (a as { item: unknown }).item !== (b as { item?: unknown }).item || isEnded(a.turn) !== isEnded(b.turn);
}

const UserMessage = ({ input }: { input: TurnState["input"] }) => {
  const chat = useChat();
  const words = wordsOf(input);
  return (
    <article class="message user" aria-label={chat.text("you")}>
      {words && (
        <p class="plain" dir="auto">
          {words}
        </p>
      )}
      {filesOf(input).map(({ file_id, name, bytes }) => (
        <SentFile key={file_id} id={file_id} name={name} bytes={bytes} />
      ))}
    </article>
  );
};

/** What sends a turn's message again in its place, with its files. */
const resend = ({ id, input }: TurnState) => ({ replaces: id, files: filesOf(input).map(({ file_id }) => file_id) });

/** A message of a turn, which may be edited as long as nothing follows it. */
function Said({ turn, canEdit }: { turn: TurnState; canEdit: boolean }) {
  const chat = useChat();
  const field = useRef<HTMLTextAreaElement>(null);
  const [isEditing, setEditing] = useState(false);
  const send = useAction((text: string) => chat.session.send(text, resend(turn)));
  const words = wordsOf(turn.input);
  useEffect(() => field.current?.focus(), [isEditing]);
  if (!isEditing || !canEdit) {
    return (
      <div class="said">
        <UserMessage input={turn.input} />
        {canEdit && <IconButton icon="edit" label={chat.text("editMessage")} onClick={() => setEditing(true)} />}
      </div>
    );
  }
  const submit = (event: Event) => {
    event.preventDefault();
    const text = field.current!.value.trim();
    if (text || filesOf(turn.input).length) void send.run(text);
  };
  return (
    <form class="comment" onSubmit={submit}>
      <label>
        {chat.text("editMessage")}
        <textarea ref={field} rows={Math.min(6, words.split("\n").length + 1)} dir="auto" defaultValue={words} />
      </label>
      <div class="buttons">
        <button type="submit" class="primary" aria-disabled={send.isRunning || undefined}>
          {chat.text("send")}
        </button>
        <button type="button" onClick={() => setEditing(false)}>
          {chat.text("cancel")}
        </button>
      </div>
      <ProblemText problem={send.problem} />
    </form>
  );
}

function Answer({ row: { item } }: { row: Extract<Row, { kind: "text" }> }) {
  const chat = useChat();
  const sources = useRef<HTMLOListElement>(null);
  const show = (index: number) => {
    const details = sources.current?.children[index]?.querySelector("details");
    if (!details) return;
    details.open = true;
    details.querySelector("summary")?.focus();
  };
  return (
    <article class="message assistant" aria-label={chat.text("assistant")} data-message={item.id}>
      <Markdown text={mark(item.text, item.citations)} isOpen={item.isOpen} onCite={show} />
      <Sources citations={item.citations} list={sources} />
    </article>
  );
}

function Outgoing({ row: { entry } }: { row: Extract<Row, { kind: "outgoing" }> }) {
  const chat = useChat();
  const retry = useAction(() => chat.session.retry(entry));
  const discard = useAction(() => chat.session.discard(entry));
  const isOffline = entry.status === "queued" && entry.failures > 0;
  return (
    <>
      <UserMessage input={entry.body.input as TurnState["input"]} />
      {entry.status === "failed" ? (
        <ProblemText problem={sentenceOf(entry.error)}>
          <span class="buttons">
            <button type="button" onClick={() => void retry.run()}>
              {chat.text("tryAgain")}
            </button>
            <button type="button" onClick={() => void discard.run()}>
              {chat.text("discard")}
            </button>
          </span>
        </ProblemText>
      ) : (
        <p class="status">{chat.text(isOffline ? "notSent" : "sending")}</p>
      )}
    </>
  );
}

function Note({ row: { item } }: { row: Extract<Row, { kind: "notice" }> }) {
  const { text } = useChat();
  return <p class="note">{text(item.event.type === "message.reset" ? "interrupted" : "guarded")}</p>;
}

function Status({ turn, isLast, rating }: { turn: TurnState; isLast: boolean; rating: Feedback | null }) {
  const chat = useChat();
  const again = useAction(() => chat.session.send(wordsOf(turn.input), resend(turn)));
  const [isCommenting, setCommenting] = useState(false);
  if (!isEnded(turn)) {
    return (
      <p class="status" data-turn={turn.id} data-status={turn.status}>
        {turn.waiting ? (
          chat.text("waiting")
        ) : turn.status === "queued" ? (
          chat.text("queued")
        ) : turn.status === "awaiting_approval" ? (
          chat.text("needsApproval")
        ) : (
          <span class="dots" role="img" aria-label={chat.text("answering")}>
            <i />
            <i />
            <i />
          </span>
        )}
      </p>
    );
  }
  const answer = textOf(turn);
  const failure = turn.status === "failed" ? sentenceFor(turn.error?.code ?? "internal", turn.id) : null;
  const askAgain = (
    <button type="button" class="small" aria-disabled={again.isRunning || undefined} onClick={() => void again.run()}>
      {chat.text("tryAgain")}
    </button>
  );
  return (
    <div class="end" data-turn={turn.id} data-status={turn.status}>
      <ProblemText problem={failure} isQuiet />
      <div class="bar">
        {turn.status === "cancelled" && <span class="muted">{chat.text("stopped")}</span>}
        {answer && <CopyButton text={answer} label="copy" />}
        {turn.status === "completed" && (
          <FeedbackButtons turn={turn.id} rating={rating} onRate={() => setCommenting(true)} />
        )}
        {isLast &&
          (turn.status === "completed" ? (
            <IconButton icon="again" label={chat.text("regenerate")} onClick={() => void again.run()} />
          ) : (
            askAgain
          ))}
      </div>
      {isCommenting && rating && <FeedbackComment turn={turn.id} rating={rating} onDone={() => setCommenting(false)} />}
      <ProblemText problem={again.problem} />
    </div>
  );
}
