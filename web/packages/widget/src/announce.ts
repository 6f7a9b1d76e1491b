// What a screen reader is told: two announcements for each answer, and one if it waits for a person.

import { isEnded, type TurnState } from "@copilotd/client/parts";

export type Announcement = "answering" | "needsApproval" | "complete" | "stopped" | "failed";

/** Follows the turns of one conversation. */
export class Announcer {
  /** What was told last of each turn; `done` when there is nothing more to tell. */
  readonly #told = new Map<string, Announcement | "done">();

  /** Turns that have ended already are not told. */
  skip(turns: readonly TurnState[]): void {
    for (const turn of turns) if (isEnded(turn)) this.#told.set(turn.id, "done");
  }

  /** What is new since the last call, in order. An answer that came while the page slept gets both its announcements. */
  next(turns: readonly TurnState[]): Announcement[] {
    const news: Announcement[] = [];
    const tell = (turn: TurnState, announcement: Announcement) => {
      news.push(announcement);
      this.#told.set(turn.id, announcement);
    };
    for (const turn of turns) {
      const last = this.#told.get(turn.id);
      if (last === "done" || turn.status === "queued") continue;
      if (!last) tell(turn, "answering");
      if (turn.status === "awaiting_approval" && last !== "needsApproval") tell(turn, "needsApproval");
      if (turn.status === "running" && last === "needsApproval") this.#told.set(turn.id, "answering");
      if (!isEnded(turn)) continue;
      tell(turn, turn.status === "completed" ? "complete" : turn.status === "cancelled" ? "stopped" : "failed");
      this.#told.set(turn.id, "done");
    }
    return news;
  }
}
