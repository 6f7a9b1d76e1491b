// Generated from schemas/ by `npm run generate`. Do not edit.

/**
 * The data of each event, by its type.
 */
export interface EventData {
  "approval.decided": ApprovalDecidedEvent;
  "approval.requested": ApprovalRequestedEvent;
  "client_tool.requested": ClientToolRequestedEvent;
  "context.assembled": ContextAssembledEvent;
  "conversation.erased": ConversationErasedEvent;
  "conversation.titled": ConversationTitledEvent;
  "guardrail.triggered": GuardrailTriggeredEvent;
  "memory.compressed": MemoryCompressedEvent;
  "message.completed": MessageCompletedEvent;
  "message.delta": MessageDeltaEvent;
  "message.reset": MessageResetEvent;
  "model.fallback": ModelFallbackEvent;
  "tool.called": ToolCalledEvent;
  "tool.finished": ToolFinishedEvent;
  "turn.cancelled": TurnCancelledEvent;
  "turn.completed": TurnCompletedEvent;
  "turn.failed": TurnFailedEvent;
  "turn.queued": TurnQueuedEvent;
  "turn.started": TurnStartedEvent;
  "turn.waiting": TurnWaitingEvent;
}
/**
 * A tool call was approved or rejected, or its approval expired.
 */
export interface ApprovalDecidedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * ID of the tool call.
   */
  call_id: string;
  /**
   * The decision.
   */
  decision: "approved" | "rejected" | "expired";
  /**
   * Edited arguments that replace the model's.
   */
  arguments?: {
    [k: string]: unknown;
  };
  /**
   * Reason given for the decision.
   */
  reason?: string;
  /**
   * Who decided.
   */
  by: string;
}
/**
 * A tool call waits for a person's approval.
 */
export interface ApprovalRequestedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * ID of the tool call.
   */
  call_id: string;
  /**
   * Name of the tool.
   */
  name: string;
  /**
   * Arguments of the call.
   */
  arguments: {
    [k: string]: unknown;
  };
  /**
   * When the approval expires.
   */
  expires_at: string;
}
/**
 * A call of a client tool waits for one of the user's pages to claim it.
 */
export interface ClientToolRequestedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * ID of the tool call.
   */
  call_id: string;
  /**
   * Name of the client tool.
   */
  name: string;
  /**
   * Arguments of the call; they satisfy the tool's schema.
   */
  arguments: {
    [k: string]: unknown;
  };
  /**
   * Until when it can be claimed; then the call fails.
   */
  expires_at: string;
}
/**
 * The prompt of a model step was assembled.
 */
export interface ContextAssembledEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * Length of the prompt in tokens.
   */
  prompt_tokens: number;
  /**
   * The prompt holds a summary of the records up to this sequence number; null if there is none.
   */
  summary_upto_seq: number | null;
  /**
   * Chunks that were retrieved for the turn, best first.
   *
   * Items: A retrieved chunk.
   */
  retrieved: {
    /**
     * ID of the chunk.
     */
    chunk_id: string;
    /**
     * ID of the document.
     */
    document_id: string;
    /**
     * ID of the document in the tenant's own system.
     */
    external_id: string;
    /**
     * Collection of the document.
     */
    collection: string;
    /**
     * Title of the document.
     */
    title: string | null;
    /**
     * Address of the document.
     */
    uri?: string;
    /**
     * Page on which the chunk begins.
     */
    page?: number;
    /**
     * Relevance; compares the chunks of one turn.
     */
    score: number;
    /**
     * Whether the prompt holds the chunk; if not, it did not fit.
     */
    included: boolean;
  }[];
  /**
   * How the copilot's documents were searched; missing if they were not, or for an earlier step of the attempt.
   */
  retrieval?: {
    /**
     * `unavailable`: the search failed or took too long, and the turn ran without documents.
     */
    status: "completed" | "unavailable";
    /**
     * Whether vectors took part; if not, words alone decided.
     */
    is_semantic: boolean;
    /**
     * The steps that ran.
     */
    steps: {
      /**
       * The step.
       */
      step: "rewrite" | "embed" | "search" | "rerank" | "read";
      /**
       * Milliseconds.
       */
      ms: number;
    }[];
    /**
     * Cost of rewriting the question with the small model, in US dollars; part of the turn's usage. Missing if it was not rewritten.
     */
    rewrite_cost_usd?: number;
    /**
     * Cost of having the small model order the documents, in US dollars; part of the turn's usage. Missing if it was not asked.
     */
    rerank_cost_usd?: number;
  };
}
/**
 * The conversation was erased. Last event of its stream.
 */
export interface ConversationErasedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * Always null.
   */
  turn_id: null;
  /**
   * When the event was recorded.
   */
  at: string;
}
/**
 * The conversation had no title, and the small model wrote one.
 */
export interface ConversationTitledEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * Always null: it belongs to the conversation.
   */
  turn_id: null;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * The title: one line of at most 60 characters.
   */
  title: string;
}
/**
 * A guardrail was triggered.
 */
export interface GuardrailTriggeredEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * Stage at which the guardrail ran.
   */
  stage: "input" | "retrieval" | "tool" | "output";
  /**
   * Name of the rule.
   */
  rule: string;
  /**
   * Action taken.
   */
  action: "allow" | "redact" | "block" | "repair";
}
/**
 * Older messages were summarised. Takes effect when the next turn starts.
 */
export interface MemoryCompressedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * Always null.
   */
  turn_id: null;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * Sequence number of the last record in the summary.
   */
  upto_seq: number;
  /**
   * Tokens before.
   */
  tokens_before: number;
  /**
   * Tokens after.
   */
  tokens_after: number;
}
/**
 * A model step ended. The deltas of the segment concatenate to its text.
 */
export interface MessageCompletedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * ID of the message; known before its first byte and the same after a restart.
   */
  message_id: string;
  /**
   * The whole text.
   */
  text: string;
  /**
   * Sources that support the answer.
   */
  citations: Citation[];
  /**
   * Ranges of the text in UTF-8 bytes, from and to: the sentences that no citation supports. Only if the copilot demands citations.
   */
  unsupported?: number[][];
  /**
   * Tool calls that the model requests.
   *
   * Items: A tool call.
   */
  tool_calls: {
    /**
     * ID of the call.
     */
    id: string;
    /**
     * Name of the tool.
     */
    name: string;
    /**
     * Arguments as the model gave them. A string if they are not valid JSON; `[redacted]` if a guardrail rejected the call.
     */
    arguments: {
      [k: string]: unknown;
    };
  }[];
  /**
   * Why the step ended.
   */
  finish: "stop" | "tool_calls" | "length" | "cancelled";
}
/**
 * A passage of a document that supports an answer.
 */
export interface Citation {
  /**
   * ID of the document.
   */
  document_id: string;
  /**
   * ID of the document in the tenant's own system.
   */
  external_id?: string;
  /**
   * Title of the document; empty if it has none.
   */
  title: string;
  /**
   * Address of the document.
   */
  uri?: string;
  /**
   * The quoted passage: it occurs in the chunk.
   */
  quote: string;
  /**
   * Page on which the chunk begins.
   */
  page?: number;
  /**
   * ID of the chunk; `GET /v1/knowledge/chunks/{chunk_id}` shows it.
   */
  chunk_id?: string;
  /**
   * Relevance of the chunk; compares the chunks of one turn.
   */
  score?: number;
  /**
   * Where the citation belongs in the answer: offset in UTF-8 bytes behind the supported sentence.
   */
  at?: number;
}
/**
 * A piece of the open message's text. Not a record: `seq` is that of the last record before it, and the offset is in the SSE `id`.
 */
export interface MessageDeltaEvent {
  /**
   * Sequence number of the last record before this piece.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the piece was sent.
   */
  at: string;
  /**
   * ID of the message; known before its first byte and the same after a restart.
   */
  message_id: string;
  /**
   * The piece of text.
   */
  text: string;
}
/**
 * Discard the deltas since the turn's last `message.completed`.
 */
export interface MessageResetEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * ID of the message; known before its first byte and the same after a restart.
   */
  message_id: string;
  /**
   * Why the text was discarded.
   */
  reason: string;
}
/**
 * Another model took over.
 */
export interface ModelFallbackEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * Model that failed.
   */
  from: string;
  /**
   * Model that answers now.
   */
  to: string;
  /**
   * Why the model was replaced.
   */
  reason: string;
}
/**
 * A tool call may run from now on.
 */
export interface ToolCalledEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * ID of the tool call.
   */
  call_id: string;
  /**
   * Name of the tool.
   */
  name: string;
  /**
   * Final arguments.
   */
  arguments: {
    [k: string]: unknown;
  };
  /**
   * Until when the page that claimed the call may answer; only for client tools.
   */
  expires_at?: string;
}
/**
 * A tool call ended.
 */
export interface ToolFinishedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * ID of the tool call.
   */
  call_id: string;
  /**
   * Outcome. `unknown`: the request was sent, and whether it took effect cannot be determined.
   */
  status: "succeeded" | "failed" | "rejected" | "cancelled" | "unknown";
  /**
   * Result returned by the tool.
   */
  result?: {
    [k: string]: unknown;
  };
  /**
   * Why there is no result.
   */
  error?: string;
}
/**
 * The turn was cancelled.
 */
export interface TurnCancelledEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  usage: Usage;
}
/**
 * Tokens and cost.
 */
export interface Usage {
  /**
   * Tokens of the prompts.
   */
  prompt_tokens: number;
  /**
   * Tokens of the answers.
   */
  completion_tokens: number;
  /**
   * Prompt tokens that the provider read from its cache.
   */
  cached_tokens: number;
  /**
   * Cost in US dollars.
   */
  cost_usd: number;
  /**
   * True if part of it is an estimate, because a provider reported no usage; otherwise omitted.
   */
  estimated?: boolean;
  /**
   * Models that were used.
   */
  models: string[];
}
/**
 * The turn completed.
 */
export interface TurnCompletedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  usage: Usage;
  /**
   * Milliseconds from acceptance to the first text; null before that.
   */
  first_token_ms: number | null;
}
/**
 * The turn failed.
 */
export interface TurnFailedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * Stable failure code for programs.
   */
  code:
    | "provider_unavailable"
    | "provider_rejected"
    | "content_policy"
    | "context_too_long"
    | "guardrail_blocked"
    | "schema_failed"
    | "limit_steps"
    | "limit_cost"
    | "limit_time"
    | "rate_limited"
    | "budget_exhausted"
    | "attempts_exhausted"
    | "internal";
  /**
   * Description for people.
   */
  message: string;
  /**
   * Whether submitting the same prompt again later may succeed.
   */
  retryable: boolean;
}
/**
 * A turn was accepted.
 */
export interface TurnQueuedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * The prompt as submitted.
   */
  input:
    | string
    | (
        | {
            /**
             * Type of the part.
             */
            type: "text";
            /**
             * The text.
             */
            text: string;
          }
        | {
            /**
             * Type of the part.
             */
            type: "file";
            /**
             * ID of the file.
             */
            file_id: string;
          }
      )[];
  /**
   * Arbitrary JSON of the caller, returned unchanged.
   */
  metadata: {
    [k: string]: unknown;
  };
  /**
   * ID of the turn that this one replaces; omitted if it replaces none.
   */
  replaces?: string;
}
/**
 * Work on the turn began. A new attempt opens a new segment of text.
 */
export interface TurnStartedEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * Number of the attempt, from 1.
   */
  attempt: number;
  /**
   * Model that is called.
   */
  model: string;
}
/**
 * The turn waits for its model provider or for a limit, and then tries again. The wait counts neither towards `limits.attempts` nor towards `limits.time_s`.
 */
export interface TurnWaitingEvent {
  /**
   * Sequence number of the record.
   */
  seq: number;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * When the event was recorded.
   */
  at: string;
  /**
   * Reason: the provider rate-limits (429), the provider is down, times out or breaks off its answers, or a limit of the tenant, the user or the API key is reached.
   */
  reason: "provider_rate_limit" | "provider_unavailable" | "limit";
  /**
   * Earliest time at which the turn continues.
   */
  until: string;
}
/**
 * A call of a client tool that belongs to whoever claimed it.
 */
export interface ClaimedCall {
  /**
   * ID of the tool call.
   */
  call_id: string;
  /**
   * Name of the client tool.
   */
  name: string;
  /**
   * Arguments of the call; they satisfy the tool's schema.
   */
  arguments: {
    [k: string]: unknown;
  };
  /**
   * Until when the answer is accepted.
   */
  expires_at: string;
  /**
   * Secret token of the claim; send it with the result.
   */
  claim: string;
}
/**
 * A conversation between a user and a copilot.
 */
export interface Conversation {
  /**
   * ID of the conversation.
   */
  id: string;
  /**
   * Name of the copilot.
   */
  copilot: string;
  /**
   * Channel that the conversation takes place on.
   */
  channel: "api" | "widget" | "slack";
  /**
   * Title for display.
   */
  title: string | null;
  /**
   * User that the conversation belongs to.
   */
  user: string;
  /**
   * Arbitrary JSON of the caller, returned unchanged.
   */
  metadata: {
    [k: string]: unknown;
  };
  /**
   * Erased conversations appear only in administrators' lists.
   */
  status: "active" | "erased";
  /**
   * When the conversation was created.
   */
  created_at: string;
  /**
   * When the last record was stored.
   */
  updated_at: string;
  /**
   * Number of turns, open ones included.
   */
  turn_count: number;
  /**
   * Sequence number of the last record. A stream opened after it (`?after=`) misses nothing.
   */
  last_seq: number;
  usage: Usage;
}
/**
 * The caller's conversations, newest first.
 */
export interface ConversationPage {
  /**
   * Entries of this page.
   */
  data: Conversation[];
  /**
   * Pass as `cursor` to get the next page; null on the last page.
   */
  next_cursor: string | null;
}
/**
 * Create a conversation.
 */
export interface CreateConversation {
  /**
   * Name of one of the tenant's copilots. Default: the tenant's first one.
   */
  copilot?: string;
  /**
   * Title for display.
   */
  title?: string | null;
  /**
   * Arbitrary JSON of the caller, returned unchanged.
   */
  metadata?: {
    [k: string]: unknown;
  };
}
/**
 * Approve or reject a tool call.
 */
export interface DecideApproval {
  /**
   * The decision.
   */
  decision: "approve" | "reject";
  /**
   * Arguments to use instead of the model's. They must satisfy the tool's schema.
   */
  arguments?: {
    [k: string]: unknown;
  };
  /**
   * Reason; shown to the model and recorded.
   */
  reason?: string;
}
/**
 * The caller's latest feedback on an answer.
 */
export interface Feedback {
  /**
   * 1 for good, -1 for bad.
   */
  rating: 1 | -1;
  /**
   * Comment; null without one.
   */
  comment: string | null;
  /**
   * When it was given.
   */
  at: string;
}
/**
 * A file that a user uploaded to a conversation.
 */
export interface StoredFile {
  /**
   * ID of the file.
   */
  id: string;
  /**
   * Name, without directories and control characters.
   */
  name: string;
  /**
   * Type of the content.
   */
  media_type:
    | "image/png"
    | "image/jpeg"
    | "image/gif"
    | "image/webp"
    | "application/pdf"
    | "text/plain"
    | "text/markdown"
    | "text/csv"
    | "application/json";
  /**
   * Size of the content.
   */
  bytes: number;
  /**
   * The conversation whose prompts may refer to it.
   */
  conversation_id: string;
}
/**
 * Submit feedback on an answer.
 */
export interface GiveFeedback {
  /**
   * 1 for good, -1 for bad.
   */
  rating: 1 | -1;
  /**
   * Comment on the answer.
   */
  comment?: string;
}
/**
 * A message of a conversation.
 */
export interface Message {
  /**
   * ID of the message.
   */
  id: string;
  /**
   * ID of the turn.
   */
  turn_id: string;
  /**
   * Author of the message.
   */
  role: "user" | "assistant" | "tool";
  /**
   * Parts of the message; empty if the model only called tools.
   *
   * Items: One part of the message.
   */
  content: (
    | {
        /**
         * Type of the part.
         */
        type: "text";
        /**
         * The text.
         */
        text: string;
      }
    | {
        /**
         * Type of the part.
         */
        type: "file";
        /**
         * ID of the file. It may have been deleted since.
         */
        file_id: string;
        /**
         * Name, without directories and control characters.
         */
        name: string;
        /**
         * Type of the content.
         */
        media_type:
          | "image/png"
          | "image/jpeg"
          | "image/gif"
          | "image/webp"
          | "application/pdf"
          | "text/plain"
          | "text/markdown"
          | "text/csv"
          | "application/json";
        /**
         * Size of the content.
         */
        bytes: number;
      }
  )[];
  /**
   * Sources that support an answer; missing if it cites none.
   */
  citations?: Citation[];
  /**
   * When the message was stored.
   */
  created_at: string;
  /**
   * Sequence number of the record.
   */
  seq: number;
}
/**
 * Messages of a conversation and the turns they belong to. An answer that is still being written is not included.
 */
export interface MessagePage {
  /**
   * Entries of this page.
   */
  data: Message[];
  /**
   * Turns of these messages, each once, in their current state and in the order of the messages.
   *
   * Items: A turn without its prompt and answer: those are messages.
   */
  turns: {
    /**
     * ID of the turn.
     */
    id: string;
    /**
     * Status of the turn. `completed`, `failed` and `cancelled` are final.
     */
    status: "queued" | "running" | "awaiting_approval" | "completed" | "failed" | "cancelled";
    /**
     * Number of times the turn was started.
     */
    attempt: number;
    /**
     * What the turn waits for, other than people and other turns; null if nothing.
     */
    waiting: {
      /**
       * Reason for the wait.
       */
      reason: string;
      /**
       * Earliest time at which the turn continues.
       */
      until: string;
    } | null;
    /**
     * Arbitrary JSON of the caller, returned unchanged.
     */
    metadata: {
      [k: string]: unknown;
    };
    /**
     * All tool calls, in the order the model requested them.
     */
    tool_calls: ToolCall[];
    /**
     * Guardrails that were triggered.
     *
     * Items: A triggered guardrail.
     */
    guardrails: {
      /**
       * Stage at which the guardrail ran.
       */
      stage: "input" | "retrieval" | "tool" | "output";
      /**
       * Name of the rule.
       */
      rule: string;
      /**
       * Action taken.
       */
      action: "allow" | "redact" | "block" | "repair";
      /**
       * Where the match was, if known; never the matched text.
       */
      detail?: string;
    }[];
    usage: Usage;
    /**
     * The caller's latest feedback; null if there is none.
     */
    feedback: {
      /**
       * 1 for good, -1 for bad.
       */
      rating: -1 | 1;
      /**
       * Comment.
       */
      comment: string | null;
    } | null;
    /**
     * Why the turn failed; null if it did not.
     */
    error: {
      /**
       * Stable code for programs.
       */
      code:
        | "provider_unavailable"
        | "provider_rejected"
        | "content_policy"
        | "context_too_long"
        | "guardrail_blocked"
        | "schema_failed"
        | "limit_steps"
        | "limit_cost"
        | "limit_time"
        | "rate_limited"
        | "budget_exhausted"
        | "attempts_exhausted"
        | "internal";
      /**
       * Description for people.
       */
      message: string;
    } | null;
    /**
     * Milliseconds from acceptance to the first text; null before that.
     */
    first_token_ms: number | null;
    /**
     * When it ended; null before that.
     */
    finished_at: string | null;
    /**
     * ID of the turn that replaced it; omitted if none did.
     */
    replaced_by?: string;
  }[];
  /**
   * Pass as `cursor` to get the next page; null on the last page.
   */
  next_cursor: string | null;
  /**
   * Sequence number of the conversation's last record. A stream opened after it (`?after=`) continues where the pages end, without a gap.
   */
  last_seq: number;
}
/**
 * A tool call of a turn.
 */
export interface ToolCall {
  /**
   * ID of the call.
   */
  id: string;
  /**
   * Name of the tool.
   */
  name: string;
  /**
   * Arguments of the call. A string if the model's arguments are not valid JSON; `[redacted]` if a guardrail rejected the call.
   */
  arguments: {
    [k: string]: unknown;
  };
  /**
   * Status of the call. `unknown`: the request was sent, and whether it took effect cannot be determined.
   */
  status: "proposed" | "awaiting_approval" | "running" | "succeeded" | "failed" | "rejected" | "cancelled" | "unknown";
  /**
   * Result returned by the tool.
   */
  result?: {
    [k: string]: unknown;
  };
  /**
   * Why there is no result.
   */
  error?: string;
  /**
   * Until when a person may decide on the call. Of a client tool's call: until when a page may claim it (`proposed`) or answer it (`running`).
   */
  expires_at?: string;
}
/**
 * Body of every error response, as `application/problem+json`.
 */
export interface Problem {
  /**
   * URI of the problem type: `https://copilotd.dev/problems/` and the code.
   */
  type: string;
  /**
   * Short description for people; the same for every problem with this code.
   */
  title: string;
  /**
   * HTTP status.
   */
  status: number;
  /**
   * What went wrong in this case, for people.
   */
  detail?: string;
  /**
   * Stable problem code for programs.
   */
  code:
    | "malformed"
    | "unauthenticated"
    | "forbidden"
    | "quota_exceeded"
    | "not_found"
    | "method_not_allowed"
    | "not_acceptable"
    | "timeout"
    | "conflict"
    | "turn_running"
    | "not_waiting"
    | "idempotency_key_reused"
    | "not_resumable"
    | "too_large"
    | "unsupported_media_type"
    | "invalid"
    | "rate_limited"
    | "queue_full"
    | "budget_exhausted"
    | "overloaded"
    | "unavailable"
    | "internal";
  /**
   * ID of the request, also in the header `x-request-id`.
   */
  request_id: string;
  /**
   * Whether to retry. `safe`: nothing was done; retry, after `Retry-After` if present. `unsafe`: it may have been done; retry only with the same `Idempotency-Key`. `never`: the same request fails again.
   */
  retry: "safe" | "unsafe" | "never";
  /**
   * All faults of a request that breaks its schema.
   *
   * Items: One fault.
   */
  errors?: {
    /**
     * JSON Pointer into the body.
     */
    pointer: string;
    /**
     * What is wrong there.
     */
    message: string;
  }[];
}
/**
 * Claim a call of a client tool, or answer one that was claimed.
 */
export interface RunClientTool {
  /**
   * `true` to claim the call; the token of the claim to answer it, together with `result` or `error`.
   */
  claim: boolean | string;
  /**
   * What the function returned: any JSON of at most 64 KiB.
   */
  result?: {
    [k: string]: unknown;
  };
  /**
   * Why the function failed; shown to the model.
   */
  error?: string;
}
/**
 * A ticket for the streams of one conversation.
 */
export interface StreamTicket {
  /**
   * The ticket; pass it as `?ticket=`.
   */
  ticket: string;
  /**
   * The first stream must be opened before this time. A request with `Last-Event-ID` may use the ticket until the credential it was issued to expires.
   */
  expires_at: string;
}
/**
 * Submit a turn.
 */
export interface SubmitTurn {
  /**
   * The prompt: a string or a list of parts, at most eight of them files.
   */
  input:
    | string
    | {
        /**
         * Type of the part.
         */
        type: "text" | "file";
        /**
         * The text, of a part of type `text`.
         */
        text?: string;
        /**
         * ID of the file, of a part of type `file`.
         */
        file_id?: string;
      }[];
  /**
   * What to do while another turn of the conversation is running, waiting or awaiting approval. Default: `enqueue`.
   */
  when_busy?: "enqueue" | "reject" | "interrupt";
  /**
   * Arbitrary JSON of the caller, returned unchanged.
   */
  metadata?: {
    [k: string]: unknown;
  };
  /**
   * JSON Schema (draft 2020-12) that the answer must satisfy.
   */
  response_schema?: {
    [k: string]: unknown;
  };
  /**
   * ID of the conversation's last turn, which must have ended (else 409 `conflict`): this one takes its place. Both stay in the conversation; prompts hold the new one, and say which tool calls had been made for the old one.
   */
  replaces?: string;
  /**
   * Functions of the user's page that the model may call in this turn; together at most 32 KiB.
   *
   * Items: A function of the page.
   */
  client_tools?: {
    /**
     * Name by which the model calls it; none of the copilot's own tools has it.
     */
    name: string;
    /**
     * What it does and when to call it, for the model.
     */
    description: string;
    /**
     * JSON Schema (draft 2020-12) of its arguments, with `"type": "object"`.
     */
    parameters: {
      [k: string]: unknown;
    };
  }[];
}
/**
 * One prompt and everything done to answer it.
 */
export interface Turn {
  /**
   * ID of the turn.
   */
  id: string;
  /**
   * ID of the conversation.
   */
  conversation_id: string;
  /**
   * Status of the turn. `completed`, `failed` and `cancelled` are final.
   */
  status: "queued" | "running" | "awaiting_approval" | "completed" | "failed" | "cancelled";
  /**
   * Number of times the turn was started.
   */
  attempt: number;
  /**
   * Number of turns ahead of it while it is queued; null otherwise.
   */
  queue_position: number | null;
  /**
   * What the turn waits for, other than people and other turns; null if nothing.
   */
  waiting: {
    /**
     * Reason: the provider rate-limits (429), the provider is down, times out or breaks off its answers, or a limit of the tenant, the user or the API key is reached.
     */
    reason: "provider_rate_limit" | "provider_unavailable" | "limit";
    /**
     * Earliest time at which the turn continues.
     */
    until: string;
  } | null;
  /**
   * The prompt as submitted.
   */
  input:
    | string
    | (
        | {
            /**
             * Type of the part.
             */
            type: "text";
            /**
             * The text.
             */
            text: string;
          }
        | {
            /**
             * Type of the part.
             */
            type: "file";
            /**
             * ID of the file.
             */
            file_id: string;
          }
      )[];
  /**
   * Arbitrary JSON of the caller, returned unchanged.
   */
  metadata: {
    [k: string]: unknown;
  };
  /**
   * The latest message; null if there is none.
   */
  output: {
    /**
     * Text of the answer.
     */
    text: string;
    /**
     * The answer parsed as JSON; only if the turn has a `response_schema`.
     */
    structured?: {
      [k: string]: unknown;
    };
    /**
     * Sources that support the answer.
     */
    citations: Citation[];
    /**
     * Ranges of the text in UTF-8 bytes, from and to: the sentences that no citation supports. Only if the copilot demands citations.
     */
    unsupported?: number[][];
  } | null;
  /**
   * All tool calls, in the order the model requested them.
   */
  tool_calls: ToolCall[];
  /**
   * Guardrails that were triggered.
   *
   * Items: A triggered guardrail.
   */
  guardrails: {
    /**
     * Stage at which the guardrail ran.
     */
    stage: "input" | "retrieval" | "tool" | "output";
    /**
     * Name of the rule.
     */
    rule: string;
    /**
     * Action taken.
     */
    action: "allow" | "redact" | "block" | "repair";
    /**
     * Where the match was, if known; never the matched text.
     */
    detail?: string;
  }[];
  /**
   * The last search of the copilot's documents; missing if there was none.
   */
  retrieval?: {
    /**
     * `unavailable`: the search failed or took too long, and the turn ran without documents.
     */
    status: "completed" | "unavailable";
    /**
     * Whether vectors took part; if not, words alone decided.
     */
    is_semantic: boolean;
    /**
     * The steps that ran.
     */
    steps: {
      /**
       * The step.
       */
      step: "rewrite" | "embed" | "search" | "rerank" | "read";
      /**
       * Milliseconds.
       */
      ms: number;
    }[];
    /**
     * Cost of rewriting the question with the small model, in US dollars; part of the turn's usage. Missing if it was not rewritten.
     */
    rewrite_cost_usd?: number;
    /**
     * Cost of having the small model order the documents, in US dollars; part of the turn's usage. Missing if it was not asked.
     */
    rerank_cost_usd?: number;
  };
  usage: Usage;
  /**
   * Why the turn failed; null if it did not.
   */
  error: {
    /**
     * Stable code for programs.
     */
    code:
      | "provider_unavailable"
      | "provider_rejected"
      | "content_policy"
      | "context_too_long"
      | "guardrail_blocked"
      | "schema_failed"
      | "limit_steps"
      | "limit_cost"
      | "limit_time"
      | "rate_limited"
      | "budget_exhausted"
      | "attempts_exhausted"
      | "internal";
    /**
     * Description for people.
     */
    message: string;
  } | null;
  /**
   * When the turn was accepted.
   */
  created_at: string;
  /**
   * When the turn was first started.
   */
  started_at: string | null;
  /**
   * When the turn ended; null before that.
   */
  finished_at: string | null;
  /**
   * Milliseconds from acceptance to the first text; null before that.
   */
  first_token_ms: number | null;
  /**
   * ID of the turn that replaced it; omitted if none did.
   */
  replaced_by?: string;
}
/**
 * Change the given fields and leave the rest.
 */
export interface UpdateConversation {
  /**
   * Title for display.
   */
  title?: string;
  /**
   * Arbitrary JSON of the caller, returned unchanged.
   */
  metadata?: {
    [k: string]: unknown;
  };
}
