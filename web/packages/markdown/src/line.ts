// A line that is read from the left. Tabs go to the next column that is a multiple of four.

/** A cursor in one line. */
export class Line {
  #at = 0;
  #column = 0;
  /** Columns of a tab that are not read yet. */
  #pad = 0;

  constructor(readonly text: string) {}

  /** What is not read yet, without the white space before it. */
  get words(): string {
    return this.text.slice(this.#skip()[0]);
  }

  /** What is not read yet. */
  get rest(): string {
    return " ".repeat(this.#pad) + this.text.slice(this.#at);
  }

  /** How many columns of white space come next. */
  get indent(): number {
    return this.#skip()[1] - this.#column + this.#pad;
  }

  get blank(): boolean {
    return this.#skip()[0] === this.text.length;
  }

  /** Reads white space of at most so many columns. */
  indented(columns: number): void {
    while (columns > 0) {
      if (this.#pad > 0) {
        const some = Math.min(columns, this.#pad);
        this.#pad -= some;
        columns -= some;
      } else {
        const width = this.#width(this.#at, this.#column);
        if (width === 0) return;
        this.#at += 1;
        this.#column += width;
        this.#pad = width;
      }
    }
  }

  /** Reads the white space, so many characters after it, and one column of white space after those if there is one. */
  marker(length: number): void {
    this.indented(Infinity);
    this.#at += length;
    this.#column += length;
  }

  /** Where the white space ends: position and column. */
  #skip(): [number, number] {
    let [at, column] = [this.#at, this.#column];
    for (let width; (width = this.#width(at, column)) > 0; at += 1) column += width;
    return [at, column];
  }

  #width(at: number, column: number): number {
    const character = this.text[at];
    return character === " " ? 1 : character === "\t" ? 4 - (column % 4) : 0;
  }
}
