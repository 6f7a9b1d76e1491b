// What the browser keeps for one user of one server: whether the chat is open, which conversation it shows, and what
// was typed and not sent.

import type { Draft } from "@copilotd/client/parts";

/** The conversation that is shown: none yet, one that begins with the message on its way, or one that exists. */
export type Current = { readonly id: string } | { readonly draft: Draft } | null;

export type KeyValues = Pick<Storage, "getItem" | "setItem" | "removeItem">;

/** Longest text that is kept, in UTF-16 units. */
const LONGEST_DRAFT = 50_000;

export class Keep {
  readonly #storage: KeyValues;
  readonly #prefix: string;

  /** `user` is part of every name: nobody reads what another user of the browser left. */
  constructor(storage: KeyValues, user: string) {
    this.#storage = storage;
    this.#prefix = `copilotd.widget/${user}/`;
  }

  get current(): Current {
    const value = this.#read("current") as Partial<{ id: unknown; draft: Draft }> | null;
    if (typeof value?.id === "string") return { id: value.id };
    if (typeof value?.draft?.key === "string" && typeof value.draft.body === "object") return { draft: value.draft };
    return null;
  }
  set current(current: Current) {
    this.#write("current", current);
  }

  draftOf(conversation: string): string {
    const value = this.#read("draft") as Partial<{ of: unknown; text: unknown }> | null;
    return value?.of === conversation && typeof value.text === "string" ? value.text : "";
  }
  /** One draft is kept: that of the conversation typed in last. */
  setDraft(conversation: string, text: string): void {
    this.#write("draft", text && { of: conversation, text: text.slice(0, LONGEST_DRAFT) });
  }

  #read(name: string): unknown {
    try {
      return JSON.parse(this.#storage.getItem(this.#prefix + name) ?? "null");
    } catch {
      return null;
    }
  }

  #write(name: string, value: unknown): void {
    try {
      if (value) this.#storage.setItem(this.#prefix + name, JSON.stringify(value));
      else this.#storage.removeItem(this.#prefix + name);
    } catch {
      // Full or not allowed: the chat works, and forgets with the page.
    }
  }
}

/** For pages without storage. */
export function memory(): KeyValues {
  const map = new Map<string, string>();
  return {
    getItem: (key) => map.get(key) ?? null,
    setItem: (key, value) => void map.set(key, value),
    removeItem: (key) => void map.delete(key),
  };
}
