// What every part of the interface needs.

import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";

import type { Host } from "./contract.js";
import type { Language } from "./language.js";
import type { Policy } from "./policy.js";
import { sentenceOf, type Sentence } from "./problems.js";
import type { Session } from "./session.js";

export interface Chat extends Language {
  readonly host: Host;
  readonly session: Session;
  readonly policy: Policy;
}

export const ChatContext = createContext<Chat>(null as unknown as Chat);
export const useChat = (): Chat => useContext(ChatContext);

/** A value that changes, and who tells of it. */
export function useStore<T>(subscribe: (listener: () => void) => () => void, read: () => T): T {
  const [value, set] = useState(read);
  useEffect(() => {
    const update = () => set(read);
    update();
    return subscribe(update);
  }, [subscribe, read]);
  return value;
}

/** An action that a person starts: whether it is under way, and what went wrong. It does not start twice. */
export function useAction<A extends unknown[]>(work: (...given: A) => Promise<unknown>) {
  const [state, set] = useState<{ isRunning: boolean; problem: Sentence | null }>({ isRunning: false, problem: null });
  const run = async (...given: A): Promise<boolean> => {
    if (state.isRunning) return false;
    set({ isRunning: true, problem: null });
    try {
      await work(...given);
      set({ isRunning: false, problem: null });
      return true;
    } catch (error) {
      set({ isRunning: false, problem: sentenceOf(error) });
      return false;
    }
  };
  return { ...state, run };
}
