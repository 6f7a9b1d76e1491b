// What a user thinks of an answer: good or bad, and a comment.

import { useEffect, useRef, useState } from "preact/hooks";

import { useAction, useChat } from "./chat.js";
import { IconButton, ProblemText } from "./parts.js";
import type { Feedback } from "./session.js";

interface ButtonsProps {
  turn: string;
  rating: Feedback | null;
  onRate: () => void;
}

export function FeedbackButtons({ turn, rating, onRate }: ButtonsProps) {
  const { session, text } = useChat();
  const rate = useAction((value: Feedback["rating"]) => session.rate(turn, value, rating?.comment ?? null));
  const give = async (value: Feedback["rating"]) => {
    if (await rate.run(value)) onRate();
  };
  return (
    <>
      <IconButton icon="good" label={text("good")} pressed={rating?.rating === 1} onClick={() => void give(1)} />
      <IconButton icon="bad" label={text("bad")} pressed={rating?.rating === -1} onClick={() => void give(-1)} />
      <ProblemText problem={rate.problem} />
    </>
  );
}

interface CommentProps {
  turn: string;
  rating: Feedback;
  onDone: () => void;
}

/** Longest comment, in UTF-16 units. */
const LONGEST = 2000;

export function FeedbackComment({ turn, rating, onDone }: CommentProps) {
  const { session, text } = useChat();
  const field = useRef<HTMLTextAreaElement>(null);
  const [isSent, setSent] = useState(false);
  const send = useAction((comment: string) => session.rate(turn, rating.rating, comment));
  const submit = async (event: Event) => {
    event.preventDefault();
    const comment = field.current!.value.trim();
    if (comment && (await send.run(comment))) setSent(true);
  };
  useEffect(() => {
    if (!isSent) return undefined;
    const timer = setTimeout(onDone, 4000);
    return () => clearTimeout(timer);
  }, [isSent]);
  if (isSent) return <p class="muted comment-sent">{text("thanks")}</p>;
  return (
    <form class="comment" onSubmit={submit}>
      <label>
        {text("comment")}
        <textarea ref={field} rows={2} maxLength={LONGEST} dir="auto" defaultValue={rating.comment ?? ""} />
      </label>
      <div class="buttons">
        <button type="submit" class="primary" aria-disabled={send.isRunning || undefined}>
          {text("sendComment")}
        </button>
        <button type="button" onClick={onDone}>
          {text("cancel")}
        </button>
      </div>
      <ProblemText problem={send.problem} />
    </form>
  );
}
