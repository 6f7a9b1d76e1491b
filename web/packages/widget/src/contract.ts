// What the loader and the app know of each other. A loader may meet the app of another version while a deployment
// runs, so this changes by additions only.

/** A user token, or a promise of one. Called whenever the server refuses the one in use. */
export type TokenSource = () => string | Promise<string>;

/** A function of the page that the model may call. */
export interface HostTool {
  readonly name: string;
  /** What it does and when to call it, for the model. */
  readonly description: string;
  /** JSON Schema of its arguments, with `type: "object"`. */
  readonly parameters: Record<string, unknown>;
  /** Runs a call. The model gets what it returns as the result, and what it throws as the error. */
  readonly run: (args: any, call: { callId: string; turnId: string; expiresAt: string }) => unknown;
}

/** Origins, such as `https://help.example.com`; `*` allows every `https` address. */
export type Origins = readonly string[];

/** The element, as the app sees it. */
export interface Host extends HTMLElement {
  readonly token: TokenSource | null;
  readonly copilot: string | null;
  readonly baseUrl: string;
  readonly metadata: Record<string, unknown> | null;
  readonly greeting: string | null;
  readonly starters: readonly string[] | null;
  readonly messages: Record<string, string> | null;
  readonly links: Origins | null;
  readonly images: Origins | null;
  /** Missing with a loader of an earlier version. */
  readonly tools?: readonly HostTool[] | null;
  readonly inline: boolean;
  open(): void;
  close(): void;
}

/** The app, as the loader sees it. */
export interface App {
  /** The panel was opened or closed. */
  shown(isOpen: boolean): void;
  /** An attribute or a property of the element changed. */
  changed(name: string): void;
  send(text: string): Promise<void>;
  newConversation(): void;
  /** The element left the page. */
  end(): void;
}

/** What the app's module exports: shows the chat in `panel`. */
export type Mount = (host: Host, root: ShadowRoot, panel: HTMLElement) => App;

/** Name in `localStorage` that says whether the chat was open, for a loader that does not know the user yet. */
export const OPEN_KEY = "copilotd.widget/open";
