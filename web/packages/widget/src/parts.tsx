// Small parts of the interface.

import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useState } from "preact/hooks";

import { useChat } from "./chat.js";
import type { Text } from "./messages/en.js";
import { wordsOf, type Sentence } from "./problems.js";

/** Outlines on a field of 24 by 24. */
const ICONS = {
  close: "M6 6l12 12M18 6L6 18",
  back: "M15 5l-7 7 7 7",
  menu: "M4 7h16M4 12h16M4 17h10",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V6M6 11l6-6 6 6",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v11H9zM15 9V5H5v11h4",
  done: "M5 13l4 4L19 7",
  good: "M8 10v10H4V10zl4-6c2 0 3 2 2 6h5c2 0 2 1 2 2l-2 7c0 1-1 1-2 1H8",
  bad: "M8 14V4H4v10zl4 6c2 0 3-2 2-6h5c2 0 2-1 2-2l-2-7c0-1-1-1-2-1H8",
  again: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  down: "M12 5v13M6 12l6 6 6-6",
  edit: "M5 19h3L19 8l-3-3L5 16z",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  clip: "M19 11l-7 7a4 4 0 0 1-6-6l8-8a3 3 0 0 1 4 4l-8 8a1 1 0 0 1-2-2l7-7",
  tool: "M14 6a4 4 0 0 1 5-1l-3 3 1 2 2 1 3-3a4 4 0 0 1-6 5l-7 7-3-3 7-7a4 4 0 0 1 1-4z",
} as const;
export type IconName = keyof typeof ICONS;

export const Icon = ({ name }: { name: IconName }) => (
  <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
    <path d={ICONS[name]} />
  </svg>
);

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: () => void;
  pressed?: boolean;
  disabled?: boolean;
  class?: string;
  button?: RefObject<HTMLButtonElement | null>;
}

export const IconButton = ({ icon, label, onClick, pressed, disabled, class: name, button }: IconButtonProps) => (
  <button
    type="button"
    class={`icon-button ${name ?? ""}`}
    aria-label={label}
    title={label}
    aria-pressed={pressed}
    // Not `disabled`: that would take the focus away.
    aria-disabled={disabled || undefined}
    onClick={() => !disabled && onClick()}
    ref={button ?? null}
  >
    <Icon name={icon} />
  </button>
);

/** Copies a text, and says so for a while. */
export function CopyButton({ text, label }: { text: string; label: Text }) {
  const chat = useChat();
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    if (!isCopied) return undefined;
    const timer = setTimeout(() => setCopied(false), 2000);
    return () => clearTimeout(timer);
  }, [isCopied]);
  const copy = () => {
    // Pages without TLS have no clipboard.
    navigator.clipboard?.writeText(text).then(() => setCopied(true), () => {});
  };
  return <IconButton icon={isCopied ? "done" : "copy"} label={chat.text(isCopied ? "copied" : label)} onClick={copy} />;
}

interface ProblemProps {
  problem: Sentence | null;
  /** Not to be announced, because something else is. */
  isQuiet?: boolean;
  children?: ComponentChildren;
}

/** A sentence about what went wrong. */
export function ProblemText({ problem, isQuiet, children }: ProblemProps) {
  const { text } = useChat();
  if (!problem) return null;
  const { words, id } = wordsOf(problem, text);
  return (
    <p class="problem" role={isQuiet ? undefined : "alert"}>
      {words}
      {id && <span class="reference"> {text("reference", { id })}</span>}
      {children}
    </p>
  );
}
