// The user's conversations: open, rename, delete.

import type { Conversation } from "@copilotd/client/parts";
import { useEffect, useRef, useState } from "preact/hooks";

import { useAction, useChat } from "./chat.js";
import { IconButton, ProblemText } from "./parts.js";

export function History({ onOpen }: { onOpen: (id: string) => void }) {
  const { session, text, host } = useChat();
  const [entries, setEntries] = useState<readonly Conversation[]>([]);
  const [cursor, setCursor] = useState<string | null | undefined>(undefined);
  const more = useAction(async () => {
    const page = await session.list(cursor ?? null);
    const ours = page.data.filter(({ copilot }) => host.copilot === null || copilot === host.copilot);
    setEntries([...entries, ...ours]);
    setCursor(page.next_cursor);
  });
  useEffect(() => void more.run(), []);
  const replace = (changed: Conversation) => setEntries(entries.map((old) => (old.id === changed.id ? changed : old)));
  const remove = (id: string) => setEntries(entries.filter((old) => old.id !== id));
  return (
    <div class="history" tabIndex={-1}>
      {cursor === null && !entries.length && <p class="muted">{text("noConversations")}</p>}
      <ul>
        {entries.map((entry) => (
          <Entry key={entry.id} entry={entry} onOpen={onOpen} onChange={replace} onDelete={remove} />
        ))}
      </ul>
      <ProblemText problem={more.problem}>
        <button type="button" onClick={() => void more.run()}>
          {text("tryAgain")}
        </button>
      </ProblemText>
      {more.isRunning && <p class="muted">{text("loading")}</p>}
      {cursor && !more.isRunning && (
        <button type="button" class="small" onClick={() => void more.run()}>
          {text("loadMore")}
        </button>
      )}
    </div>
  );
}

interface EntryProps {
  entry: Conversation;
  onOpen: (id: string) => void;
  onChange: (changed: Conversation) => void;
  onDelete: (id: string) => void;
}

function Entry({ entry, onOpen, onChange, onDelete }: EntryProps) {
  const { session, text, date } = useChat();
  const [mode, setMode] = useState<"shown" | "renaming" | "deleting">("shown");
  const item = useRef<HTMLLIElement>(null);
  const rename = useAction(async (title: string) => onChange(await session.rename(entry, title)));
  const erase = useAction(async () => {
    await session.delete(entry);
    onDelete(entry.id);
  });
  const title = entry.title ?? text("untitled", { date: date(entry.created_at) });
  // Where the focus was goes away with each change.
  useEffect(() => {
    const root = item.current!.getRootNode() as ShadowRoot;
    if (!root.activeElement) item.current!.querySelector<HTMLElement>("input, .focus")?.focus();
  }, [mode]);
  const submit = async (event: Event) => {
    event.preventDefault();
    const next = item.current!.querySelector("input")!.value.trim();
    if (next && (await rename.run(next))) setMode("shown");
  };
  return (
    <li ref={item}>
      {mode === "renaming" ? (
        <form onSubmit={submit}>
          <input aria-label={text("rename")} defaultValue={title} maxLength={200} dir="auto" />
          <button type="submit" class="primary">
            {text("save")}
          </button>
          <button type="button" onClick={() => setMode("shown")}>
            {text("cancel")}
          </button>
        </form>
      ) : mode === "deleting" ? (
        <div class="buttons" role="group" aria-label={text("deleteQuestion")}>
          <span>{text("deleteQuestion")}</span>
          <button type="button" class="danger focus" onClick={() => void erase.run()}>
            {text("delete")}
          </button>
          <button type="button" onClick={() => setMode("shown")}>
            {text("cancel")}
          </button>
        </div>
      ) : (
        <>
          <button type="button" class="entry focus" onClick={() => onOpen(entry.id)}>
            <span class="entry-title" dir="auto">
              {title}
            </span>
            <span class="muted">{date(entry.updated_at)}</span>
          </button>
          <IconButton icon="edit" label={`${text("rename")}: ${title}`} onClick={() => setMode("renaming")} />
          <IconButton icon="bin" label={`${text("delete")}: ${title}`} onClick={() => setMode("deleting")} />
        </>
      )}
      <ProblemText problem={rename.problem ?? erase.problem} />
    </li>
  );
}
