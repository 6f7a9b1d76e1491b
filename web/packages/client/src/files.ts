// Files that a user attaches to prompts.

import { erase, type CallOptions } from "./calls.js";
import { randomId } from "./environment.js";
import type { StoredFile } from "./schema.js";
import type { Transport } from "./transport.js";

export interface UploadOptions {
  /** By default that of a `File`, else `file`. */
  name?: string | undefined;
  /** Made if missing. Give one if the same upload may be asked for again, such as after a reload. */
  idempotencyKey?: string | undefined;
  /** Milliseconds that one attempt may take; 600,000 by default. */
  timeout?: number;
  signal?: AbortSignal | undefined;
}

/** The files of one user. */
export class Files {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Uploads a file to a conversation. A prompt refers to it by a part `{ type: "file", file_id: id }`; one to which no
   * prompt refers is erased after a day.
   */
  upload(conversationId: string, blob: Blob, options: UploadOptions = {}): Promise<StoredFile> {
    const { name, idempotencyKey, timeout = 600_000, signal } = options;
    const body = new FormData();
    // In this order: the server knows where the file belongs before it arrives.
    body.append("conversation_id", conversationId);
    body.append("file", blob, name ?? (blob as Blob & { name?: string }).name ?? "file");
    const key = idempotencyKey ?? randomId();
    return this.#transport.json("POST", "/v1/files", { body, key, timeout, signal });
  }

  /** The address of the content. It answers with a token only, so a plain link to it does not work: see `read`. */
  url(id: string): string {
    return this.#transport.url(pathOf(id));
  }

  /** Reads the content. */
  async read(id: string, { signal }: CallOptions = {}): Promise<Blob> {
    const { response, arrived, done } = await this.#transport.open("GET", pathOf(id), { signal });
    try {
      arrived();
      return await response.blob();
    } finally {
      done();
    }
  }

  /** Deletes a file. One that is gone already counts as deleted. */
  delete(id: string, { signal }: CallOptions = {}): Promise<void> {
    return erase(this.#transport, pathOf(id), signal);
  }
}

const pathOf = (id: string): string => `/v1/files/${encodeURIComponent(id)}`;
