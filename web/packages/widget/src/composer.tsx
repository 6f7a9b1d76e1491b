// Where messages are written. Locked while an answer is on its way; then Stop stands in the place of Send.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { useAction, useChat } from "./chat.js";
import type { Keep } from "./keep.js";
import { IconButton, ProblemText } from "./parts.js";

interface Props {
  /** The conversation's name: each has its own draft. */
  name: string;
  isBusy: boolean;
  keep: Keep;
  /** Counts the times that the field should take the focus. */
  focus: number;
  onSent: () => void;
}

export function Composer({ name, isBusy, keep, focus, onSent }: Props) {
  const { session, text } = useChat();
  const field = useRef<HTMLTextAreaElement>(null);
  const [value, setValue] = useState("");
  const send = useAction((message: string) => session.send(message));
  const stop = useAction(() => session.stop());

  useEffect(() => setValue(keep.draftOf(name)), [name, keep]);
  useEffect(() => {
    if (focus) field.current?.focus({ preventScroll: true });
  }, [focus]);
  // As high as its text.
  useLayoutEffect(() => {
    const { style } = field.current!;
    style.height = "";
    if (field.current!.scrollHeight > field.current!.clientHeight) style.height = `${field.current!.scrollHeight}px`;
  }, [value]);

  const change = (next: string) => {
    setValue(next);
    keep.setDraft(name, next);
  };
  const submit = async () => {
    const message = value.trim();
    if (!message || isBusy || send.isRunning) return;
    // The draft is kept until the message is stored.
    if (await send.run(message)) {
      change("");
      onSent();
    }
    field.current?.focus();
  };
  const onKey = (event: KeyboardEvent) => {
    // While an input method composes, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    void submit();
  };

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <ProblemText problem={send.problem ?? stop.problem} />
      <div class="composer-box">
        <textarea
          ref={field}
          rows={1}
          // An empty field would run from left to right, with the placeholder in it.
          dir={value ? "auto" : undefined}
          aria-label={text("message")}
          placeholder={text("placeholder")}
          value={value}
          readOnly={isBusy}
          aria-disabled={isBusy || undefined}
          enterkeyhint="send"
          onInput={(event) => change(event.currentTarget.value)}
          onKeyDown={onKey}
        />
        {isBusy ? (
          <IconButton
            class="filled stop"
            icon="stop"
            label={text("stop")}
            disabled={stop.isRunning}
            onClick={() => {
              field.current?.focus();
              void stop.run();
            }}
          />
        ) : (
          <IconButton class="filled send" icon="send" label={text("send")} disabled={!value.trim()} onClick={() => void submit()} />
        )}
      </div>
    </form>
  );
}
