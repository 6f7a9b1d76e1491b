// A call that waits for a person: what it would do with which arguments, and what the person decides.

import { InvalidError, type ToolItem } from "@copilotd/client/parts";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { useAction, useChat } from "./chat.js";
import { argumentsOf, fieldsOf, wrongFields, type Field } from "./edits.js";
import { ProblemText } from "./parts.js";

export function Approval({ turn, item }: { turn: string; item: ToolItem }) {
  const { session, text, tool, time } = useChat();
  const [fields, setFields] = useState<Field[] | null>(null);
  const [wrong, setWrong] = useState<string[]>([]);
  const form = useRef<HTMLDivElement>(null);
  const decide = useAction(async (isApproved: boolean, edited?: Record<string, unknown>) => {
    try {
      await session.decide(turn, item.id, isApproved, edited);
    } catch (error) {
      if (error instanceof InvalidError && fields) setWrong(wrongFields(error.errors, fields));
      throw error;
    }
  });
  const section = useRef<HTMLElement>(null);
  // Once it is decided, the buttons go away, and the focus would go with them.
  useLayoutEffect(() => {
    const element = section.current!;
    return () => {
      const root = element.getRootNode() as ShadowRoot;
      if (element.contains(root.activeElement)) root.querySelector<HTMLElement>(".composer textarea")?.focus();
    };
  }, []);
  const title = text("approvalTitle", { name: tool(item.name) });
  const approve = () => {
    setWrong([]);
    if (!fields) return void decide.run(true);
    const result = argumentsOf(fields);
    if ("values" in result) return void decide.run(true, result.values);
    setWrong([result.wrong]);
    return undefined;
  };
  const Label = fields ? "label" : "div";
  const shown = fields ?? fieldsOf(item.arguments);
  const set = (name: string, value: string) =>
    setFields(shown.map((field) => (field.name === name ? { ...field, text: value } : field)));
  const edit = () => {
    setFields(shown);
    queueMicrotask(() => form.current?.querySelector<HTMLElement>("textarea")?.focus());
  };
  return (
    <section ref={section} class="approval" role="group" aria-label={title} data-call={item.id} data-turn={turn}>
      <h3 dir="auto">{title}</h3>
      <div class="fields" ref={form}>
        {shown.map(({ name, text: value }) => (
          <div class="field" key={name}>
            <Label>
              <span class="field-name" dir="auto">
                {name.replaceAll("_", " ")}
              </span>
              {[item.origins?.[name] ?? []].flat().map((origin) => (
                <span class="origin" key={origin} dir="auto">
                  {text("origin", { name: tool(origin) })}
                </span>
              ))}
              {fields ? (
                <textarea
                  dir="auto"
                  rows={Math.min(6, value.split("\n").length)}
                  value={value}
                  aria-invalid={wrong.includes(name) || undefined}
                  onInput={(event) => set(name, event.currentTarget.value)}
                />
              ) : (
                <span class="value" dir="auto">
                  {value}
                </span>
              )}
            </Label>
            {wrong.includes(name) && <p class="wrong">{text("notJson")}</p>}
          </div>
        ))}
        {!shown.length && <pre>{typeof item.arguments === "string" ? item.arguments : JSON.stringify(item.arguments)}</pre>}
      </div>
      <div class="buttons">
        <button type="button" class="primary" aria-disabled={decide.isRunning || undefined} onClick={approve}>
          {text("approve")}
        </button>
        {fields ? (
          <button type="button" onClick={() => setFields(null)}>
            {text("cancel")}
          </button>
        ) : (
          shown.length > 0 && (
            <button type="button" onClick={edit}>
              {text("edit")}
            </button>
          )
        )}
        <button type="button" aria-disabled={decide.isRunning || undefined} onClick={() => void decide.run(false)}>
          {text("reject")}
        </button>
        {item.expiresAt && <span class="muted">{text("approvalExpires", { time: time(item.expiresAt) })}</span>}
      </div>
      <ProblemText problem={decide.problem} />
    </section>
  );
}
