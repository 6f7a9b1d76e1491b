// The app that the loader imports: finds out who the user is, opens their chat and shows it.

import { backOff, CopilotdError, type ClientTools } from "@copilotd/client/parts";
import { render } from "preact";

import type { Announcement } from "./announce.js";
import type { Chat } from "./chat.js";
import { ChatContext } from "./chat.js";
import { OPEN_KEY, type App, type Host, type HostTool, type TokenSource } from "./contract.js";
import { hashOf, identityOf } from "./identity.js";
import { Keep, memory, type KeyValues } from "./keep.js";
import { available, languageOf, load, type Language } from "./language.js";
import type { Texts } from "./messages/en.js";
import { Panel } from "./panel.js";
import { ProblemText } from "./parts.js";
import { policyOf } from "./policy.js";
import { sentenceFor, sentenceOf, type Sentence } from "./problems.js";
import { Session } from "./session.js";
import style from "./widget.css";

/** Time that an announcement stays before the next one, so that none is lost, in milliseconds. */
const BETWEEN_ANNOUNCEMENTS = 700;

export function mount(host: Host, root: ShadowRoot, panel: HTMLElement): App {
  return new ChatApp(host, root, panel);
}

class ChatApp implements App {
  readonly #host: Host;
  readonly #panel: HTMLElement;
  readonly #region = document.createElement("div");
  readonly #storage: KeyValues | null = storage();
  #tools: ClientTools;
  #session: Session | undefined;
  #keep: Keep | undefined;
  /** Hash of the user's name, under which things are kept; null while nobody is known. */
  #user: string | null = null;
  #problem: Sentence | null = null;
  #starting = 0;
  #ready: Promise<void> = Promise.resolve();
  #isOpen = false;
  #focus = 0;
  #texts: { of: string; texts: Partial<Texts> } | undefined;
  /** The language that is being loaded. */
  #loading: string | undefined;
  #language: Language | undefined;
  #announcements: Announcement[] = [];
  #speaking: ReturnType<typeof setTimeout> | undefined;

  constructor(host: Host, root: ShadowRoot, panel: HTMLElement) {
    this.#host = host;
    this.#panel = panel;
    this.#tools = toolsOf(host.tools);
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    root.adoptedStyleSheets = [...root.adoptedStyleSheets.slice(0, 1), sheet];
    // Outside of the list and always there: a region that comes with its text is not announced.
    this.#region.role = "status";
    this.#region.className = "announcements";
    root.append(this.#region);
    panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || host.inline || event.isComposing || event.defaultPrevented) return;
      event.preventDefault();
      host.close();
    });
    this.#start();
  }

  shown(isOpen: boolean): void {
    if (isOpen === this.#isOpen) return;
    this.#isOpen = isOpen;
    if (isOpen && !this.#host.inline) this.#focus++;
    this.#remember();
    this.#render();
    this.#emit("copilotd-open", { open: isOpen });
  }

  changed(name: string): void {
    if (name === "token" || name === "copilot" || name === "base-url") this.#start();
    else if (name === "tools") {
      this.#tools = toolsOf(this.#host.tools);
      this.#session?.look();
    } else this.#render();
  }

  async send(text: string): Promise<void> {
    await this.#ready;
    if (!this.#session) throw new Error("copilotd: there is no user to send as");
    await this.#session.send(text);
  }

  newConversation(): void {
    void this.#ready.then(() => this.#session?.show(null));
  }

  end(): void {
    this.#starting++;
    this.#session?.end();
    this.#session = undefined;
    clearTimeout(this.#speaking);
    render(null, this.#panel);
    this.#region.remove();
  }

  /** Begins anew for whoever the page's token names now. */
  #start(): void {
    this.#session?.end();
    this.#session = this.#keep = undefined;
    this.#problem = null;
    const number = ++this.#starting;
    this.#render();
    this.#ready = this.#begin(number).catch((error: unknown) => {
      if (number !== this.#starting) return;
      console.error("copilotd: the page gave no user token", error);
      this.#problem = sentenceOf(error);
      this.#render();
    });
  }

  async #begin(number: number): Promise<void> {
    const host = this.#host;
    const source = host.token;
    if (!source) {
      this.#problem = sentenceFor("no_token");
      return this.#render();
    }
    let first: string | undefined = await firstToken(source);
    // Some pages answer nothing, rather than fail, when nobody is signed in.
    if (typeof first !== "string" || !first) throw new CopilotdError({ code: "unauthenticated", title: "Not a token" });
    const name = identityOf(first);
    const user = name === null ? null : await hashOf(`${host.baseUrl} ${host.copilot ?? ""} ${name}`);
    if (number !== this.#starting) return;
    this.#user = user;
    this.#keep = new Keep((user !== null && this.#storage) || memory(), user ?? "");
    this.#session = new Session({
      baseUrl: host.baseUrl,
      copilot: host.copilot,
      metadata: () => host.metadata,
      tools: () => this.#tools,
      keep: this.#keep,
      user: this.#storage ? user : null,
      token: async () => {
        const token = first ?? (await Promise.resolve().then(source).catch(refuse));
        first = undefined;
        // Somebody else has signed in, or nobody is: nothing of the first user may be sent as another.
        if (typeof token !== "string" || identityOf(token) !== name) {
          queueMicrotask(() => number === this.#starting && this.#start());
          throw new Error("the user has changed");
        }
        return token;
      },
      onAnnounce: (announcement) => this.#announce(announcement),
      onMessage: (detail) => this.#emit("copilotd-message", detail),
      onApproval: (detail) => this.#emit("copilotd-approval", detail),
    });
    const wasOpen = user !== null && this.#storage?.getItem(OPEN_KEY) === user;
    if (wasOpen && !this.#isOpen) {
      // Nobody asked for it just now, so the focus stays where it is.
      this.#focus--;
      host.open();
    } else this.#remember();
    this.#render();
  }

  /** Keeps whether the chat is open, for the next page. */
  #remember(): void {
    if (!this.#session || this.#host.inline) return;
    try {
      if (this.#isOpen && this.#user !== null) this.#storage?.setItem(OPEN_KEY, this.#user);
      else this.#storage?.removeItem(OPEN_KEY);
    } catch {
      // Full: the next page begins with a closed chat.
    }
  }

  #render(): void {
    const host = this.#host;
    const wanted = host.lang || document.documentElement.lang || navigator.language;
    if (available(wanted) !== this.#texts?.of) return this.#translate(available(wanted));
    const language = languageOf(wanted, host.getAttribute("dir"), host.messages, this.#texts.texts);
    const session = this.#session;
    this.#panel.lang = this.#region.lang = language.lang;
    this.#panel.dir = this.#region.dir = language.dir;
    this.#panel.role = host.inline ? "region" : "dialog";
    this.#panel.ariaLabel = language.text("title");
    this.#language = language;
    if (!this.#isOpen) return;
    const policy = policyOf(host.links, host.images, [location.origin, new URL(host.baseUrl, location.href).origin]);
    const chat: Chat = { ...language, host, session: session as Session, policy };
    if (session && this.#keep) {
      render(<Panel key={this.#starting} chat={chat} keep={this.#keep} focus={this.#focus} />, this.#panel);
    } else {
      render(<Start chat={chat} problem={this.#problem} onRetry={() => this.#start()} />, this.#panel);
    }
  }

  /** Loads a language, then shows everything in it; without it, in the one before. */
  #translate(language: string): void {
    if (this.#loading === language) return;
    this.#loading = language;
    const show = (texts: Partial<Texts>) => {
      if (this.#loading !== language) return;
      this.#loading = undefined;
      this.#texts = { of: language, texts };
      this.#render();
    };
    load(language).then(show, (error: unknown) => {
      console.error("copilotd: the texts could not be loaded", error);
      show(this.#texts?.texts ?? {});
    });
  }

  #announce(announcement: Announcement): void {
    this.#announcements.push(announcement);
    if (this.#speaking === undefined) this.#speak();
  }

  #speak(): void {
    const next = this.#announcements.shift();
    this.#speaking = undefined;
    if (!next) return;
    this.#region.textContent = this.#language?.text(next) ?? "";
    this.#speaking = setTimeout(() => this.#speak(), BETWEEN_ANNOUNCEMENTS);
  }

  #emit(type: string, detail: unknown): void {
    this.#host.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }
}

/** The page failed to give a token: it may succeed a little later. */
function refuse(cause: unknown): never {
  throw new CopilotdError({ code: "sign_in_failed", title: "The page gave no user token", status: 503, retry: "safe" }, cause);
}

/** Asks the page for a token; a few times more if it fails, as when the network has just come back. */
async function firstToken(source: TokenSource): Promise<string> {
  for (let failures = 0; ; failures++) {
    try {
      return await source();
    } catch (error) {
      if (failures === 3) refuse(error);
      await backOff(failures, { base: 500, cap: 2000 });
    }
  }
}

/** The page's functions by name. Entries that are no function are left out, with a warning in the console. */
function toolsOf(given: readonly HostTool[] | null | undefined): ClientTools {
  const tools = Array.isArray(given) ? given : [];
  const isTool = (tool: Partial<HostTool> | null) => typeof tool?.name === "string" && typeof tool.run === "function";
  if ((given && given !== tools) || !tools.every(isTool)) {
    console.error("copilotd: tools must be a list of { name, description, parameters, run }", given);
  }
  return Object.fromEntries(tools.filter(isTool).map((tool) => [tool.name, tool]));
}

/** What is shown before the user is known. */
const Start = ({ chat, problem, onRetry }: { chat: Chat; problem: Sentence | null; onRetry: () => void }) => (
  <ChatContext.Provider value={chat}>
    <div class="head">
      <h2>{chat.text("title")}</h2>
      {!chat.host.inline && (
        <button type="button" class="small" onClick={() => chat.host.close()}>
          {chat.text("close")}
        </button>
      )}
    </div>
    <div class="welcome">
      {problem ? (
        <ProblemText problem={problem}>
          <span class="buttons">
            <button type="button" onClick={onRetry}>
              {chat.text("tryAgain")}
            </button>
          </span>
        </ProblemText>
      ) : (
        <p class="muted">{chat.text("loading")}</p>
      )}
    </div>
  </ChatContext.Provider>
);

/** The browser's storage, if the page may use it. */
function storage(): Storage | null {
  try {
    const { localStorage } = window;
    localStorage.getItem(OPEN_KEY);
    return localStorage;
  } catch {
    return null;
  }
}
