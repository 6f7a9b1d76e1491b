// An answer's Markdown as elements. The parser's tree has a closed list of tags; nothing here makes HTML from text.

import { Markdown as Parser, textOf, type Element, type Node } from "@copilotd/markdown";
import { h, type ComponentChild } from "preact";
import { useMemo } from "preact/hooks";

import { split } from "./citations.js";
import { useChat } from "./chat.js";
import { CopyButton } from "./parts.js";

interface Props {
  text: string;
  isOpen: boolean;
  onCite: (index: number) => void;
}

/** What the drawing of a tree needs. */
interface Pen {
  cite: (index: number) => void;
  source: (index: number) => string;
  /** What was drawn of blocks that no longer change: the same object again, which Preact leaves alone. */
  drawn: WeakMap<Element, ComponentChild>;
}

/** The only attributes that are passed on. */
const ATTRIBUTES = new Set(["href", "title", "src", "alt", "start", "align"]);

export function Markdown({ text, isOpen, onCite }: Props) {
  const chat = useChat();
  const [parser, pen] = useMemo((): [Parser, Pen] => {
    const source = (index: number) => chat.text("source", { n: index + 1 });
    return [new Parser(chat.policy), { cite: onCite, source, drawn: new WeakMap() }];
  }, [chat]);
  return (
    <div class="markdown" dir="auto">
      {parser.parse(text, isOpen).map((node, index) => block(node, index, pen))}
    </div>
  );
}

function block(node: Node, index: number, pen: Pen): ComponentChild {
  if (typeof node === "string") return draw(node, index, pen);
  const known = pen.drawn.get(node);
  if (known) return known;
  const made = draw(node, index, pen);
  pen.drawn.set(node, made);
  return made;
}

function draw(node: Node, index: number, pen: Pen): ComponentChild {
  if (typeof node === "string") return words(node, pen);
  const { tag, attrs, children } = node;
  const key = node.key ?? index;
  if (tag === "pre") return <Code key={key} node={node} />;
  const given: Record<string, string> = {};
  for (const [name, value] of Object.entries(attrs)) if (ATTRIBUTES.has(name)) given[name] = value;
  if (tag === "a") Object.assign(given, { target: "_blank", rel: "noopener noreferrer nofollow" });
  if (tag === "img") Object.assign(given, { loading: "lazy", referrerpolicy: "no-referrer" });
  if (tag === "br" || tag === "hr" || tag === "img") return h(tag, { ...given, key });
  if (tag === "li" && attrs["task"]) given["data-task"] = attrs["task"];
  const inner = children.map((child, at) => draw(child, at, pen));
  // A wide table scrolls by itself, also by keys.
  if (tag === "table") {
    return (
      <div class="table" key={key} tabIndex={0}>
        <table>{inner}</table>
      </div>
    );
  }
  return h(tag, { ...given, key }, inner);
}

function words(text: string, { cite, source }: Pen): ComponentChild {
  const parts = split(text);
  if (parts.length === 1 && typeof parts[0] === "string") return text;
  return parts.map((part) =>
    typeof part === "string" ? (
      part
    ) : (
      // The number is drawn by the style sheet: it is not part of the answer's text.
      <button type="button" class="cite" data-n={part + 1} aria-label={source(part)} onClick={() => cite(part)} />
    ),
  ) as ComponentChild;
}

function Code({ node }: { node: Element }) {
  const code = split(textOf([node])).filter((part) => typeof part === "string").join("");
  const { lang } = node.attrs;
  return (
    <div class="code">
      <div class="code-head">
        <span data-lang={lang || undefined} />
        <CopyButton text={code} label="copyCode" />
      </div>
      <pre dir="ltr" tabIndex={0}>
        <code>{code}</code>
      </pre>
    </div>
  );
}
