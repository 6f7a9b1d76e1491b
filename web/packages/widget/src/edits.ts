// The fields of a form for a call's arguments: text in, JSON out.

export interface Field {
  readonly name: string;
  readonly text: string;
  /** Whether the argument is a text; if not, the field holds JSON. */
  readonly isText: boolean;
}

export function fieldsOf(given: unknown): Field[] {
  if (typeof given !== "object" || given === null || Array.isArray(given)) return [];
  return Object.entries(given).map(([name, value]) => ({
    name,
    text: typeof value === "string" ? value : json(value),
    isText: typeof value === "string",
  }));
}

/** The arguments that the fields say, or the name of the field that is not valid. */
export function argumentsOf(fields: readonly Field[]): { values: Record<string, unknown> } | { wrong: string } {
  const values: [string, unknown][] = [];
  for (const { name, text, isText } of fields) {
    try {
      values.push([name, isText ? text : JSON.parse(text)]);
    } catch {
      return { wrong: name };
    }
  }
  return { values: Object.fromEntries(values) };
}

/** The fields that a refusal is about: the first parts of its pointers below `/arguments`. */
export function wrongFields(errors: readonly { pointer?: string }[] | undefined, fields: readonly Field[]): string[] {
  const known = new Set(fields.map(({ name }) => name));
  const parts = (errors ?? []).flatMap(({ pointer }) => (pointer ?? "").split("/"));
  return [...new Set(parts.map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~")).filter((part) => known.has(part)))];
}

/** JSON on one line if it fits. */
function json(value: unknown): string {
  const line = JSON.stringify(value) ?? "";
  return line.length <= 48 ? line : JSON.stringify(value, null, 2);
}
