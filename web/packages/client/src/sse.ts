// Server-sent events, as the HTML standard parses them.

/** One dispatched block of an event stream. */
export interface SseMessage {
  /** The type (`event:`); `message` if there is none. */
  event: string;
  data: string;
  /** The last `id:` so far, of this block or of an earlier one; empty if there is none. */
  id: string;
}

/** Characters that one event may have. copilotd's are far smaller; another server must not fill the memory. */
const MAX_CHARS = 64 * 1024 * 1024;

/**
 * Parses an event stream that arrives in pieces of any size: all three line ends, a byte order mark, characters and
 * line ends that are split between pieces, comments, `retry:` and `id:`.
 */
export class SseParser {
  /** The last `id:`, committed by the empty line that ends its block. */
  id = "";
  /** What the last `retry:` said, in milliseconds. */
  retry: number | undefined;

  #decoder = new TextDecoder();
  /** The pieces of the line that is not complete yet: joined once, so that a long line costs no more than its length. */
  #line: string[] = [];
  #chars = 0;
  #afterCr = false;
  #event = "";
  #data: string[] = [];
  #nextId = "";

  /** Takes the next bytes and returns the events that they complete. */
  push(bytes: Uint8Array): SseMessage[] {
    const messages: SseMessage[] = [];
    let text = this.#decoder.decode(bytes, { stream: true });
    // An empty piece, or the first bytes of a character.
    if (!text) return messages;
    const isLastCr = text.endsWith("\r");
    // The second half of a CRLF whose first half ended the last piece.
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#afterCr = isLastCr;
    let start = 0;
    const lineEnd = /\r\n?|\n/g;
    for (let end; (end = lineEnd.exec(text)); start = lineEnd.lastIndex) {
      this.#keep(text.slice(start, end.index));
      this.#endLine(messages);
    }
    this.#keep(text.slice(start));
    return messages;
  }

  #keep(piece: string): void {
    if (!piece) return;
    this.#chars += piece.length;
    if (this.#chars > MAX_CHARS) throw new RangeError(`an event of more than ${MAX_CHARS} characters`);
    this.#line.push(piece);
  }

  #endLine(messages: SseMessage[]): void {
    const line = this.#line.length === 1 ? this.#line[0]! : this.#line.join("");
    this.#line = [];
    if (line) return this.#field(line);
    this.id = this.#nextId;
    // A block without data changes the position only.
    if (this.#data.length) {
      messages.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.id });
    }
    this.#event = "";
    this.#data = [];
    this.#chars = 0;
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") this.#data.push(value);
    else {
      // What is not kept does not count: comments come for as long as the stream is open.
      this.#chars -= line.length;
      if (name === "event") this.#event = value;
      else if (name === "id" && !value.includes("\0")) this.#nextId = value;
      else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    }
  }
}
