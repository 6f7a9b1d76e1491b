// Where messages are written. Locked while an answer is on its way; then Stop stands in the place of Send.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { useAction, useChat } from "./chat.js";
import { Attached } from "./files.js";
import type { Keep } from "./keep.js";
import { IconButton, ProblemText } from "./parts.js";
import type { Shown } from "./session.js";

interface Props {
  shown: Shown;
  keep: Keep;
  /** Counts the times that the field should take the focus. */
  focus: number;
  onSent: () => void;
}

export function Composer({ shown: { name, opening, isBusy, attached }, keep, focus, onSent }: Props) {
  const { session, text, host } = useChat();
  const { attachments } = session;
  const field = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const [value, setValue] = useState("");
  const send = useAction((message: string) => session.send(message, { files: attachments.ids }));
  const stop = useAction(() => session.stop());

  const opened = useRef<number | null>(null);
  // Each conversation has its own draft. One that is created keeps what was typed before it had a name.
  useLayoutEffect(() => {
    if (opened.current !== opening) setValue(keep.draftOf(name));
    else if (value) keep.setDraft(name, value);
    opened.current = opening;
  }, [opening, name, keep]);
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
  const canAttach = host.getAttribute("attachments") !== "off";
  const message = value.trim();
  const canSend = !attachments.isUploading && (message !== "" || attachments.ids.length > 0);
  /** Takes what was pasted, dropped or chosen; without files, it is left to the browser. */
  const attach = (files: FileList | null | undefined, event: Event) => {
    if (!canAttach || !files?.length) return;
    event.preventDefault();
    if (!isBusy) attachments.add(files);
  };
  useEffect(() => {
    const panel = field.current!.closest<HTMLElement>(".panel")!;
    const isFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files");
    panel.ondragover = (event) => canAttach && isFiles(event) && event.preventDefault();
    panel.ondrop = (event) => attach(event.dataTransfer?.files, event);
  });
  const submit = async () => {
    if (!canSend || isBusy || send.isRunning) return;
    // The draft is kept until the message is stored.
    if (await send.run(message)) {
      change("");
      attachments.clear();
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
      <Attached list={attached} />
      <div class="composer-box">
        {canAttach && (
          <>
            <input
              ref={picker}
              type="file"
              multiple
              hidden
              onChange={(event) => {
                attach(event.currentTarget.files, event);
                // The same file may be chosen again.
                event.currentTarget.value = "";
              }}
            />
            <IconButton icon="clip" label={text("attach")} disabled={isBusy} onClick={() => picker.current!.click()} />
          </>
        )}
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
          onPaste={(event) => {
            const data = event.clipboardData;
            // Programs with tables copy a picture of them beside the text, which is meant.
            const isText = data?.types.includes("text/plain") && data.types.includes("text/html");
            if (!isText) attach(data?.files, event);
          }}
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
          <IconButton class="filled send" icon="send" label={text("send")} disabled={!canSend} onClick={() => void submit()} />
        )}
      </div>
    </form>
  );
}
