// The sources of an answer, each with the passage that it quotes.

import type { Citation } from "@copilotd/client/parts";
import type { RefObject } from "preact";

import { useChat } from "./chat.js";

export function Sources({ citations, list }: { citations: readonly Citation[]; list: RefObject<HTMLOListElement | null> }) {
  const { text } = useChat();
  if (!citations.length) return null;
  return (
    <ol class="sources" aria-label={text("sources")} ref={list}>
      {citations.map((citation, index) => {
        const url = addressOf(citation.uri);
        const title = citation.title || citation.external_id || text("source", { n: index + 1 });
        return (
          <li key={index}>
            <details>
              <summary dir="auto">
                {title}
                {citation.page !== undefined && <span class="muted"> · {text("page", { n: citation.page })}</span>}
              </summary>
              <q dir="auto">{citation.quote}</q>
              {url && (
                <a href={url.href} target="_blank" rel="noopener noreferrer nofollow" dir="ltr">
                  {url.host + (url.pathname === "/" ? "" : url.pathname)}
                </a>
              )}
            </details>
          </li>
        );
      })}
    </ol>
  );
}

/** The tenant chose where its documents are, so a source is linked wherever it leads, if it leads to a page. */
function addressOf(uri: string | undefined): URL | null {
  try {
    const url = uri ? new URL(uri) : null;
    return url && /^https?:$/.test(url.protocol) ? url : null;
  } catch {
    return null;
  }
}
