// @copilotd/client: conversations with copilotd, in browsers, Node and workers.

export type { CallOptions, CreateOptions, DecisionOptions, ListOptions, PageOptions } from "./calls.js";
export * from "./client.js";
export type { Backoff } from "./environment.js";
export * from "./errors.js";
export { Files, type UploadOptions } from "./files.js";
export * from "./outbox.js";
export type * from "./schema.js";
export * from "./state.js";
export { isTerminal, type CopilotdEvent, type StreamOptions, type StreamStatus } from "./stream.js";
export type { TransportOptions } from "./transport.js";
export * from "./view.js";
