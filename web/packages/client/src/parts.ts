// What the widget is built of: less than the whole client, and only what a page with a conversation needs. It changes
// with the widget; applications use `@copilotd/client`.

export {
  ConversationCalls,
  createConversation,
  listConversations,
  TurnCalls,
} from "./calls.js";
export { backOff } from "./environment.js";
export { CopilotdError, InvalidError } from "./errors.js";
export { Files } from "./files.js";
export { Outbox, webStorage, type Draft, type OutboxEntry } from "./outbox.js";
export type * from "./schema.js";
export * from "./state.js";
export { CallRunner, offersOf, type ClientTool, type ClientTools } from "./tools.js";
export { Transport } from "./transport.js";
export { openView, type ConversationView, type Snapshot } from "./view.js";
