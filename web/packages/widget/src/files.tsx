// Files of a message: those that will be sent with it, and those that were.

import type { Attachment } from "./attachments.js";
import { useAction, useChat } from "./chat.js";
import { Icon, IconButton, ProblemText } from "./parts.js";

/** The files of the message that is being written. */
export function Attached({ list }: { list: readonly Attachment[] }) {
  const { session, text } = useChat();
  if (!list.length) return null;
  return (
    <ul class="files" aria-label={text("files")}>
      {list.map((attachment) => (
        <li key={attachment.key} class="file" data-status={attachment.problem ? "failed" : attachment.id ? "done" : "uploading"}>
          <Named name={attachment.name} bytes={attachment.bytes} />
          <IconButton
            icon="close"
            label={`${text("remove")}: ${attachment.name}`}
            onClick={() => session.attachments.remove(attachment)}
          />
          <ProblemText problem={attachment.problem ?? null} />
        </li>
      ))}
    </ul>
  );
}

/** A file of a message that was sent; a click saves it. */
export function SentFile({ id, name, bytes }: { id: string; name?: string | undefined; bytes?: number | undefined }) {
  const { session, text } = useChat();
  const known = session.attachments.known(id);
  const shown = name ?? known?.name ?? text("files");
  const save = useAction(() => session.attachments.save(id, shown));
  return (
    <>
      <button type="button" class="file" title={text("save")} onClick={() => void save.run()}>
        <Named name={shown} bytes={bytes ?? known?.bytes} />
      </button>
      <ProblemText problem={save.problem} />
    </>
  );
}

function Named({ name, bytes }: { name: string; bytes: number | undefined }) {
  const { size } = useChat();
  return (
    <>
      <Icon name="clip" />
      <span class="file-name" dir="auto">
        {name}
      </span>
      {bytes !== undefined && <span class="muted">{size(bytes)}</span>}
    </>
  );
}
