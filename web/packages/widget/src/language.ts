// Texts, dates and directions in the reader's language.

import type { Text, Texts } from "./messages/en.js";

/** Each language is a file of its own, so that a page loads only one. */
const ALL: Readonly<Record<string, () => Promise<{ default: Texts }>>> = {
  ar: () => import("./messages/ar.js"),
  de: () => import("./messages/de.js"),
  en: () => import("./messages/en.js"),
  ja: () => import("./messages/ja.js"),
};
const RIGHT_TO_LEFT = new Set(["ar", "dv", "fa", "he", "ps", "ur", "yi"]);

export interface Language {
  readonly lang: string;
  readonly dir: "ltr" | "rtl";
  /** A text with its `{variables}` filled in. */
  readonly text: (name: Text, variables?: Readonly<Record<string, string | number>>) => string;
  /** A tool's name for people: the host's words, else made of its own. */
  readonly tool: (name: string) => string;
  readonly date: (at: string | number) => string;
  readonly time: (at: string | number) => string;
  /** A number of bytes. */
  readonly size: (bytes: number) => string;
}

/** The primary subtag of a language tag: `de` of `de-AT`. */
const baseOf = (tag: string): string => tag.split("-")[0]!.toLowerCase();

/** The language among ours that a reader of `wanted` gets. */
export const available = (wanted: string): string => (Object.hasOwn(ALL, baseOf(wanted)) ? baseOf(wanted) : "en");

/** Loads the texts of an available language; of any version, if the server does not have ours any more. */
export async function load(language: string): Promise<Texts> {
  const any = new URL(`${language}.js`, import.meta.url).href;
  const { default: texts } = await ALL[language]!().catch(() => import(any) as Promise<{ default: Texts }>);
  return texts;
}

/** `overrides` are the host's own texts by their names; they also name tools (`tool:zendesk_create_ticket`). */
export function languageOf(
  wanted: string,
  dir: string | null,
  overrides: Readonly<Record<string, string>> | null,
  texts: Partial<Texts>,
): Language {
  const own = (name: string) => (overrides && Object.hasOwn(overrides, name) ? overrides[name] : undefined);
  // A language that is not ours is shown in English, unless the host brings its own texts.
  const lang = baseOf(wanted) === available(wanted) || overrides ? wanted : "en";
  return {
    lang,
    dir: dir === "rtl" || dir === "ltr" ? dir : RIGHT_TO_LEFT.has(baseOf(lang)) ? "rtl" : "ltr",
    text: (name, variables = {}) =>
      (own(name) ?? (Object.hasOwn(texts, name) ? texts[name]! : "")).replace(/\{(\w+)\}/g, (all, key: string) => String(variables[key] ?? all)),
    tool: (name) => own(`tool:${name}`) ?? sentence(name),
    date: format(lang, { dateStyle: "medium", timeStyle: "short" }),
    time: format(lang, { timeStyle: "short" }),
    size: (bytes) => {
      const [unit, count] = bytes < 1e6 ? ["kilobyte", bytes / 1e3] : ["megabyte", bytes / 1e6];
      const digits = { maximumSignificantDigits: 2 };
      return new Intl.NumberFormat(tagOf(lang), { style: "unit", unit, unitDisplay: "short", ...digits }).format(count);
    },
  };
}

/** A tag that the browser knows as one; English for what is none. */
function tagOf(lang: string): string {
  try {
    return Intl.getCanonicalLocales(lang)[0] ?? "en";
  } catch {
    return "en";
  }
}

function format(lang: string, options: Intl.DateTimeFormatOptions): Language["date"] {
  const formatter = new Intl.DateTimeFormat(tagOf(lang), options);
  return (at) => {
    const date = new Date(at);
    return Number.isNaN(date.getTime()) ? "" : formatter.format(date);
  };
}

/** `zendesk_create_ticket` as `Zendesk: create ticket`. */
function sentence(name: string): string {
  const [system = "", ...rest] = name.split("_");
  const first = system.replace(/^./, (letter) => letter.toUpperCase());
  return rest.length ? `${first}: ${rest.join(" ")}` : first;
}
