// The script that a page loads: the element `<copilotd-chat>` with its launcher. Everything else is imported when the
// chat is opened for the first time.

import { OPEN_KEY, type App, type Host, type HostTool, type Mount, type Origins, type TokenSource } from "./contract.js";
import style from "./loader.css";

/** Path of the app, with the hash of its content; put in by the build. */
declare const APP_PATH: string;
/** The app of whatever version the server has. */
const ANY_APP_PATH = "/widget/app.js";

const script = document.currentScript as HTMLScriptElement | null;
const origin = script?.src ? new URL(script.src).origin : location.origin;
/** Properties that are not attributes. */
const PROPERTIES = ["token", "metadata", "greeting", "starters", "messages", "links", "images", "tools"] as const;
const ICON = "M4 5.5A2.5 2.5 0 0 1 6.5 3h11A2.5 2.5 0 0 1 20 5.5v8a2.5 2.5 0 0 1-2.5 2.5H10l-4.3 3.6A1 1 0 0 1 4 18.8z";
/** For the launcher only; the app has the other texts. */
const WORDS: Record<string, readonly [open: string, failed: string]> = {
  en: ["Open the chat", "The chat could not be loaded. Please try again."],
  de: ["Chat öffnen", "Der Chat konnte nicht geladen werden. Bitte versuchen Sie es erneut."],
  ar: ["فتح المحادثة", "تعذّر تحميل المحادثة. يُرجى المحاولة مرة أخرى."],
  ja: ["チャットを開く", "チャットを読み込めませんでした。もう一度お試しください。"],
};

class CopilotdChat extends HTMLElement implements Host {
  static readonly observedAttributes = ["copilot", "base-url", "lang", "dir", "theme", "inline", "open", "attachments"];
  // Accessors, see below: a field would wipe out what the page set before this script had run.
  declare token: TokenSource | null;
  declare metadata: Record<string, unknown> | null;
  declare greeting: string | null;
  declare starters: readonly string[] | null;
  declare messages: Record<string, string> | null;
  declare links: Origins | null;
  declare images: Origins | null;
  declare tools: readonly HostTool[] | null;
  readonly #values = new Map<string, unknown>();
  #app: App | undefined;
  #loading: Promise<App | undefined> | undefined;
  readonly #root = this.attachShadow({ mode: "open" });
  readonly #launcher = document.createElement("button");
  readonly #note = document.createElement("p");
  readonly #panel = document.createElement("div");

  constructor() {
    super();
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    this.#root.adoptedStyleSheets = [sheet];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", ICON);
    svg.append(path);
    this.#launcher.append(svg);
    this.#launcher.type = "button";
    this.#launcher.part.add("launcher");
    this.#launcher.onclick = () => this.toggleAttribute("open");
    this.#note.className = "failure";
    this.#note.role = "alert";
    this.#note.hidden = true;
    this.#panel.className = "panel";
    this.#panel.part.add("panel");
    this.#panel.hidden = true;
    this.#root.append(this.#panel, this.#note, this.#launcher);
  }

  static {
    for (const name of PROPERTIES) {
      Object.defineProperty(this.prototype, name, {
        get(this: CopilotdChat) {
          return this.#values.get(name) ?? null;
        },
        set(this: CopilotdChat, value: unknown) {
          this.#values.set(name, value);
          this.#app?.changed(name);
          if (name === "token" && this.isConnected) this.#restore();
        },
      });
    }
  }

  get copilot(): string | null {
    return this.getAttribute("copilot");
  }
  get baseUrl(): string {
    return this.getAttribute("base-url") ?? origin;
  }
  get inline(): boolean {
    return this.hasAttribute("inline");
  }

  connectedCallback(): void {
    // What a page set before this script had run is on the object itself, in front of the accessors.
    for (const name of PROPERTIES) {
      if (!Object.hasOwn(this, name)) continue;
      const value: unknown = this[name];
      delete (this as Record<string, unknown>)[name];
      Object.assign(this, { [name]: value });
    }
    this.#label();
    this.#restore();
    this.#show();
  }

  disconnectedCallback(): void {
    this.#app?.end();
    this.#app = this.#loading = undefined;
    this.#panel.replaceChildren();
  }

  attributeChangedCallback(name: string): void {
    if (!this.isConnected) return;
    if (name === "open" || name === "inline") this.#show();
    if (name === "lang") this.#label();
    this.#app?.changed(name);
  }

  open(): void {
    this.toggleAttribute("open", true);
  }
  close(): void {
    this.toggleAttribute("open", false);
  }
  async send(text: string): Promise<void> {
    this.open();
    await (await this.#load())?.send(text);
  }
  newConversation(): void {
    void this.#load().then((app) => app?.newConversation());
  }

  get #words() {
    const lang = (this.lang || document.documentElement.lang || navigator.language).slice(0, 2);
    return WORDS[lang] ?? WORDS.en!;
  }

  #label(): void {
    this.#launcher.ariaLabel = this.#words[0];
  }

  /** Opens the chat if it was open before the page was loaded. The app closes it again for another user. */
  #restore(): void {
    if (!this.token) return;
    try {
      if (localStorage.getItem(OPEN_KEY)) void this.#load();
    } catch {
      // A page without storage.
    }
  }

  #show(): void {
    const isOpen = this.inline || this.hasAttribute("open");
    this.#launcher.hidden = isOpen;
    this.#launcher.ariaExpanded = String(isOpen);
    if (this.#app) {
      const hadFocus = this.#root.activeElement !== null;
      this.#panel.hidden = !isOpen;
      this.#app.shown(isOpen);
      if (!isOpen && hadFocus) this.#launcher.focus();
    } else if (isOpen) void this.#load();
  }

  #load(): Promise<App | undefined> {
    return (this.#loading ??= this.#import().catch((error: unknown) => {
      console.error("copilotd: the chat could not be loaded", error);
      this.#loading = undefined;
      this.close();
      this.#note.textContent = this.#words[1];
      this.#note.hidden = false;
      return undefined;
    }));
  }

  async #import(): Promise<App | undefined> {
    const base = origin;
    const { mount } = (await import(base + APP_PATH).catch(() => import(base + ANY_APP_PATH))) as { mount: Mount };
    if (!this.isConnected) return undefined;
    this.#note.hidden = true;
    this.#app = mount(this, this.#root, this.#panel);
    this.#show();
    return this.#app;
  }
}

/** A function of the page by its name, such as `app.getToken`. */
function named(path: string): TokenSource {
  return () => {
    const found = path.split(".").reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], window);
    if (typeof found !== "function") throw new TypeError(`copilotd: the page has no function ${path}`);
    return (found as TokenSource)();
  };
}

if (!customElements.get("copilotd-chat")) customElements.define("copilotd-chat", CopilotdChat);
const tokenName = script?.dataset.token;
if (tokenName) {
  const chat = document.createElement("copilotd-chat") as CopilotdChat;
  for (const [name, value] of Object.entries({ ...script.dataset })) {
    if (name === "token" || value === undefined) continue;
    chat.setAttribute(name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`), value);
  }
  chat.token = named(tokenName);
  const add = () => document.body.append(chat);
  if (document.body) add();
  else addEventListener("DOMContentLoaded", add, { once: true });
}
