// Files that the next message will have. They are uploaded as soon as they are chosen, so that a refusal is known before
// the message is sent.

import { CopilotdError, type Files } from "@copilotd/client/parts";

import { sentenceFor, sentenceOf, type Sentence } from "./problems.js";

export interface Attachment {
  /** Tells files of one name apart. */
  readonly key: number;
  readonly name: string;
  readonly bytes: number;
  /** Once it is uploaded. */
  readonly id?: string;
  /** Why it is not attached. */
  readonly problem?: Sentence;
}

/** Files of one message, and bytes of one file, that any server takes. */
const MOST = 8;
const LARGEST = 20 * 1024 * 1024;

export class Attachments {
  list: readonly Attachment[] = [];
  readonly #files: Files;
  readonly #conversation: () => Promise<string>;
  readonly #onChange: () => void;
  readonly #uploads = new Map<number, AbortController>();
  /** What was uploaded here, by its id: events do not name files. */
  readonly #known = new Map<string, Attachment>();
  #count = 0;

  /** `conversation` returns the id of the conversation that the files are for. */
  constructor(files: Files, conversation: () => Promise<string>, onChange: () => void) {
    this.#files = files;
    this.#conversation = conversation;
    this.#onChange = onChange;
  }

  /** Whether a file is on its way. */
  get isUploading(): boolean {
    return this.list.some(({ id, problem }) => !id && !problem);
  }

  /** The ids of the files that are attached. */
  get ids(): string[] {
    return this.list.flatMap(({ id }) => id ?? []);
  }

  known(id: string): Attachment | undefined {
    return this.#known.get(id);
  }

  add(files: Iterable<File>): void {
    for (const file of files) {
      const key = this.#count++;
      const isTooMany = this.list.filter(({ problem }) => !problem).length >= MOST;
      const code = isTooMany ? "too_many_files" : file.size > LARGEST ? "file_too_large" : undefined;
      this.list = [...this.list, { key, name: file.name, bytes: file.size, ...(code && { problem: sentenceFor(code) }) }];
      if (!code) void this.#upload(key, file);
    }
    this.#onChange();
  }

  async #upload(key: number, file: File): Promise<void> {
    const controller = new AbortController();
    const { signal } = controller;
    this.#uploads.set(key, controller);
    let change: Partial<Attachment>;
    try {
      const { id, name, bytes } = await this.#files.upload(await this.#conversation(), file, { signal });
      change = { id, name, bytes };
    } catch (error) {
      const isTooLarge = error instanceof CopilotdError && error.code === "too_large";
      change = { problem: isTooLarge ? sentenceFor("file_too_large") : sentenceOf(error) };
    }
    this.#uploads.delete(key);
    this.list = this.list.map((attachment) => {
      if (attachment.key !== key) return attachment;
      const next = { ...attachment, ...change };
      if (next.id) this.#known.set(next.id, next);
      return next;
    });
    this.#onChange();
  }

  remove({ key, id }: Attachment): void {
    this.#uploads.get(key)?.abort();
    // One to which no message refers is erased after a day in any case.
    if (id) void this.#files.delete(id).catch(() => {});
    this.list = this.list.filter((other) => other.key !== key);
    this.#onChange();
  }

  /** Forgets the files, because they were sent or another conversation is shown. */
  clear(): void {
    for (const upload of this.#uploads.values()) upload.abort();
    this.list = [];
    this.#onChange();
  }

  /** Saves a file's content on the user's device. It is never opened in the page: it may be made to do harm there. */
  async save(id: string, name: string): Promise<void> {
    const content = await this.#files.read(id);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
    link.download = name;
    link.click();
    // The download has the content by then.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}
