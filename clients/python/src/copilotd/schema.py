"""Types of the HTTP API, generated from schemas/ by generate.py. Do not edit.

At run time all of them are plain dictionaries: fields that a newer server adds are kept.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class _CitationRequired(TypedDict):
    document_id: str
    """ID of the document."""
    title: str
    """Title of the document; empty if it has none."""
    quote: str
    """The quoted passage: it occurs in the chunk."""


class Citation(_CitationRequired, total=False):
    """A passage of a document that supports an answer."""

    external_id: str
    """ID of the document in the tenant's own system."""
    uri: str
    """Address of the document."""
    page: int
    """Page on which the chunk begins."""
    chunk_id: str
    """ID of the chunk; `GET /v1/knowledge/chunks/{chunk_id}` shows it."""
    score: float
    """Relevance of the chunk; compares the chunks of one turn."""
    at: int
    """Where the citation belongs in the answer: offset in UTF-8 bytes behind the supported sentence."""


class Conversation(TypedDict):
    """A conversation between a user and a copilot."""

    id: str
    """ID of the conversation."""
    copilot: str
    """Name of the copilot."""
    channel: Literal["api", "widget", "slack"]
    """Channel that the conversation takes place on."""
    title: str | None
    """Title for display."""
    user: str
    """User that the conversation belongs to."""
    metadata: dict[str, Any]
    """Arbitrary JSON of the caller, returned unchanged."""
    status: Literal["active", "erased"]
    """Erased conversations appear only in administrators' lists."""
    created_at: str
    """When the conversation was created."""
    updated_at: str
    """When the last record was stored."""
    turn_count: int
    """Number of turns, open ones included."""
    last_seq: int
    """Sequence number of the last record. A stream opened after it (`?after=`) misses nothing."""
    usage: Usage


class ConversationPage(TypedDict):
    """The caller's conversations, newest first."""

    data: list[Conversation]
    """Entries of this page."""
    next_cursor: str | None
    """Pass as `cursor` to get the next page; null on the last page."""


class CreateConversation(TypedDict, total=False):
    """Create a conversation."""

    copilot: str
    """Name of one of the tenant's copilots. Default: the tenant's first one."""
    title: str | None
    """Title for display."""
    metadata: dict[str, Any]
    """Arbitrary JSON of the caller, returned unchanged."""


class _DecideApprovalRequired(TypedDict):
    decision: Literal["approve", "reject"]
    """The decision."""


class DecideApproval(_DecideApprovalRequired, total=False):
    """Approve or reject a tool call."""

    arguments: dict[str, Any]
    """Arguments to use instead of the model's. They must satisfy the tool's schema."""
    reason: str
    """Reason; shown to the model and recorded."""


class Fact(TypedDict):
    """A short statement about a user, learned from what the user wrote."""

    id: str
    """ID of the fact."""
    text: str
    """The statement. Words such as `yesterday` are written as dates."""
    turn_id: str
    """The turn on whose message the fact rests."""
    said_at: str
    """When the user said it last, or when it was corrected."""
    valid_from: str
    """When the user said it first, or when it was corrected."""
    valid_to: str | None
    """When the user said something else instead; null while it is valid."""


class FactPage(TypedDict):
    """What is remembered about a user, the one said last first."""

    data: list[Fact]
    """Entries of this page."""
    next_cursor: str | None
    """Pass as `cursor` to get the next page; null on the last page."""


class StoredFile(TypedDict):
    """A file that a user uploaded to a conversation."""

    id: str
    """ID of the file."""
    name: str
    """Name, without directories and control characters."""
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", "text/plain", "text/markdown", "text/csv", "application/json"]
    """Type of the content."""
    bytes: int
    """Size of the content."""
    conversation_id: str
    """The conversation whose prompts may refer to it."""


class _GiveFeedbackRequired(TypedDict):
    rating: Literal[1, -1]
    """1 for good, -1 for bad."""


class GiveFeedback(_GiveFeedbackRequired, total=False):
    """Submit feedback on an answer."""

    comment: str
    """Comment on the answer."""


class MessageContentItemText(TypedDict):
    """A piece of text."""

    type: Literal["text"]
    """Type of the part."""
    text: str
    """The text."""


class MessageContentItemFile(TypedDict):
    """A file that the user attached."""

    type: Literal["file"]
    """Type of the part."""
    file_id: str
    """ID of the file. It may have been deleted since."""
    name: str
    """Name, without directories and control characters."""
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", "text/plain", "text/markdown", "text/csv", "application/json"]
    """Type of the content."""
    bytes: int
    """Size of the content."""


MessageContentItem = MessageContentItemText | MessageContentItemFile


class _MessageRequired(TypedDict):
    id: str
    """ID of the message."""
    turn_id: str
    """ID of the turn."""
    role: Literal["user", "assistant", "tool"]
    """Author of the message."""
    content: list[MessageContentItem]
    """Parts of the message; empty if the model only called tools."""
    created_at: str
    """When the message was stored."""
    seq: int
    """Sequence number of the record."""


class Message(_MessageRequired, total=False):
    """A message of a conversation."""

    citations: list[Citation]
    """Sources that support an answer; missing if it cites none."""


class MessagePageTurnWaiting(TypedDict):
    """A wait for a provider or a limit."""

    reason: str
    """Reason for the wait."""
    until: str
    """Earliest time at which the turn continues."""


class _MessagePageTurnGuardrailRequired(TypedDict):
    stage: Literal["input", "retrieval", "tool", "output"]
    """Stage at which the guardrail ran."""
    rule: str
    """Name of the rule."""
    action: Literal["allow", "redact", "block", "repair"]
    """Action taken."""


class MessagePageTurnGuardrail(_MessagePageTurnGuardrailRequired, total=False):
    """A triggered guardrail."""

    detail: str
    """Where the match was, if known; never the matched text."""


class MessagePageTurnFeedback(TypedDict):
    """Feedback on an answer."""

    rating: Literal[-1, 1]
    """1 for good, -1 for bad."""
    comment: str | None
    """Comment."""


class MessagePageTurnError(TypedDict):
    """A failure."""

    code: Literal["provider_unavailable", "provider_rejected", "content_policy", "context_too_long", "guardrail_blocked", "schema_failed", "limit_steps", "limit_cost", "limit_time", "rate_limited", "budget_exhausted", "attempts_exhausted", "internal"]
    """Stable code for programs."""
    message: str
    """Description for people."""


class _MessagePageTurnRequired(TypedDict):
    id: str
    """ID of the turn."""
    status: Literal["queued", "running", "awaiting_approval", "completed", "failed", "cancelled"]
    """Status of the turn. `completed`, `failed` and `cancelled` are final."""
    attempt: int
    """Number of times the turn was started."""
    waiting: MessagePageTurnWaiting | None
    """What the turn waits for, other than people and other turns; null if nothing."""
    metadata: dict[str, Any]
    """Arbitrary JSON of the caller, returned unchanged."""
    tool_calls: list[ToolCall]
    """All tool calls, in the order the model requested them."""
    guardrails: list[MessagePageTurnGuardrail]
    """Guardrails that were triggered."""
    usage: Usage
    """Usage of all attempts."""
    feedback: MessagePageTurnFeedback | None
    """The caller's latest feedback; null if there is none."""
    error: MessagePageTurnError | None
    """Why the turn failed; null if it did not."""
    first_token_ms: int | None
    """Milliseconds from acceptance to the first text; null before that."""
    finished_at: str | None
    """When it ended; null before that."""


class MessagePageTurn(_MessagePageTurnRequired, total=False):
    """A turn without its prompt and answer: those are messages."""

    replaced_by: str
    """ID of the turn that replaced it; omitted if none did."""


class MessagePage(TypedDict):
    """
    Messages of a conversation and the turns they belong to. An answer that is still being written is not included.
    """

    data: list[Message]
    """Entries of this page."""
    turns: list[MessagePageTurn]
    """Turns of these messages, each once, in their current state and in the order of the messages."""
    next_cursor: str | None
    """Pass as `cursor` to get the next page; null on the last page."""
    last_seq: int
    """
    Sequence number of the conversation's last record. A stream opened after it (`?after=`) continues where the pages
    end, without a gap.
    """


class ProblemError(TypedDict):
    """One fault."""

    pointer: str
    """JSON Pointer into the body."""
    message: str
    """What is wrong there."""


class _ProblemRequired(TypedDict):
    type: str
    """URI of the problem type: `https://copilotd.dev/problems/` and the code."""
    title: str
    """Short description for people; the same for every problem with this code."""
    status: int
    """HTTP status."""
    code: Literal["malformed", "unauthenticated", "forbidden", "quota_exceeded", "not_found", "method_not_allowed", "not_acceptable", "timeout", "conflict", "turn_running", "not_waiting", "idempotency_key_reused", "not_resumable", "too_large", "unsupported_media_type", "invalid", "rate_limited", "queue_full", "budget_exhausted", "overloaded", "unavailable", "internal"]
    """Stable problem code for programs."""
    request_id: str
    """ID of the request, also in the header `x-request-id`."""
    retry: Literal["safe", "unsafe", "never"]
    """
    Whether to retry. `safe`: nothing was done; retry, after `Retry-After` if present. `unsafe`: it may have been done;
    retry only with the same `Idempotency-Key`. `never`: the same request fails again.
    """


class Problem(_ProblemRequired, total=False):
    """Body of every error response, as `application/problem+json`."""

    detail: str
    """What went wrong in this case, for people."""
    errors: list[ProblemError]
    """All faults of a request that breaks its schema."""


class StreamTicket(TypedDict):
    """A ticket for the streams of one conversation."""

    ticket: str
    """The ticket; pass it as `?ticket=`."""
    expires_at: str
    """
    The first stream must be opened before this time. A request with `Last-Event-ID` may use the ticket until the
    credential it was issued to expires.
    """


class _SubmitTurnInputItemRequired(TypedDict):
    type: Literal["text", "file"]
    """Type of the part."""


class SubmitTurnInputItem(_SubmitTurnInputItemRequired, total=False):
    """One part of the prompt: a text, or a file that this user uploaded to this conversation."""

    text: str
    """The text, of a part of type `text`."""
    file_id: str
    """ID of the file, of a part of type `file`."""


class SubmitTurnClientTool(TypedDict):
    """A function of the page."""

    name: str
    """Name by which the model calls it; none of the copilot's own tools has it."""
    description: str
    """What it does and when to call it, for the model."""
    parameters: dict[str, Any]
    """JSON Schema (draft 2020-12) of its arguments, with `"type": "object"`."""


class _SubmitTurnRequired(TypedDict):
    input: str | list[SubmitTurnInputItem]
    """The prompt: a string or a list of parts, at most eight of them files."""


class SubmitTurn(_SubmitTurnRequired, total=False):
    """Submit a turn."""

    when_busy: Literal["enqueue", "reject", "interrupt"]
    """
    What to do while another turn of the conversation is running, waiting or awaiting approval. Default: `enqueue`.
    """
    metadata: dict[str, Any]
    """Arbitrary JSON of the caller, returned unchanged."""
    response_schema: dict[str, Any]
    """JSON Schema (draft 2020-12) that the answer must satisfy."""
    replaces: str
    """
    ID of the conversation's last turn, which must have ended (else 409 `conflict`): this one takes its place. Both stay
    in the conversation; prompts hold the new one, and say which tool calls had been made for the old one.
    """
    client_tools: list[SubmitTurnClientTool]
    """Functions of the user's page that the model may call in this turn; together at most 32 KiB."""


class _ToolCallRequired(TypedDict):
    id: str
    """ID of the call."""
    name: str
    """Name of the tool."""
    arguments: Any
    """
    Arguments of the call. A string if the model's arguments are not valid JSON; `[redacted]` if a guardrail rejected
    the call.
    """
    status: Literal["proposed", "awaiting_approval", "running", "succeeded", "failed", "rejected", "cancelled", "unknown"]
    """Status of the call. `unknown`: the request was sent, and whether it took effect cannot be determined."""


class ToolCall(_ToolCallRequired, total=False):
    """A tool call of a turn."""

    result: Any
    """Result returned by the tool."""
    error: str
    """Why there is no result."""
    expires_at: str
    """
    Until when a person may decide on the call. Of a client tool's call: until when a page may claim it (`proposed`) or
    answer it (`running`).
    """


class TurnWaiting(TypedDict):
    """A wait for a provider or a limit."""

    reason: Literal["provider_rate_limit", "provider_unavailable", "limit"]
    """
    Reason: the provider rate-limits (429), the provider is down, times out or breaks off its answers, or a limit of the
    tenant, the user or the API key is reached.
    """
    until: str
    """Earliest time at which the turn continues."""


class TurnInputItemText(TypedDict):
    """A piece of text."""

    type: Literal["text"]
    """Type of the part."""
    text: str
    """The text."""


class TurnInputItemFile(TypedDict):
    """A file that this user uploaded to this conversation."""

    type: Literal["file"]
    """Type of the part."""
    file_id: str
    """ID of the file."""


TurnInputItem = TurnInputItemText | TurnInputItemFile


class _TurnOutputRequired(TypedDict):
    text: str
    """Text of the answer."""
    citations: list[Citation]
    """Sources that support the answer."""


class TurnOutput(_TurnOutputRequired, total=False):
    """An answer."""

    structured: Any
    """The answer parsed as JSON; only if the turn has a `response_schema`."""
    unsupported: list[list[int]]
    """
    Ranges of the text in UTF-8 bytes, from and to: the sentences that no citation supports. Only if the copilot demands
    citations.
    """


class _TurnGuardrailRequired(TypedDict):
    stage: Literal["input", "retrieval", "tool", "output"]
    """Stage at which the guardrail ran."""
    rule: str
    """Name of the rule."""
    action: Literal["allow", "redact", "block", "repair"]
    """Action taken."""


class TurnGuardrail(_TurnGuardrailRequired, total=False):
    """A triggered guardrail."""

    detail: str
    """Where the match was, if known; never the matched text."""


class TurnRetrievalStep(TypedDict):
    """TurnRetrievalStep"""

    step: Literal["rewrite", "embed", "search", "rerank", "read"]
    """The step."""
    ms: int
    """Milliseconds."""


class _TurnRetrievalRequired(TypedDict):
    status: Literal["completed", "unavailable"]
    """`unavailable`: the search failed or took too long, and the turn ran without documents."""
    is_semantic: bool
    """Whether vectors took part; if not, words alone decided."""
    steps: list[TurnRetrievalStep]
    """The steps that ran."""


class TurnRetrieval(_TurnRetrievalRequired, total=False):
    """The last search of the copilot's documents; missing if there was none."""

    rewrite_cost_usd: float
    """
    Cost of rewriting the question with the small model, in US dollars; part of the turn's usage. Missing if it was not
    rewritten.
    """
    rerank_cost_usd: float
    """
    Cost of having the small model order the documents, in US dollars; part of the turn's usage. Missing if it was not
    asked.
    """


class TurnError(TypedDict):
    """A failure."""

    code: Literal["provider_unavailable", "provider_rejected", "content_policy", "context_too_long", "guardrail_blocked", "schema_failed", "limit_steps", "limit_cost", "limit_time", "rate_limited", "budget_exhausted", "attempts_exhausted", "internal"]
    """Stable code for programs."""
    message: str
    """Description for people."""


class _TurnRequired(TypedDict):
    id: str
    """ID of the turn."""
    conversation_id: str
    """ID of the conversation."""
    status: Literal["queued", "running", "awaiting_approval", "completed", "failed", "cancelled"]
    """Status of the turn. `completed`, `failed` and `cancelled` are final."""
    attempt: int
    """Number of times the turn was started."""
    queue_position: int | None
    """Number of turns ahead of it while it is queued; null otherwise."""
    waiting: TurnWaiting | None
    """What the turn waits for, other than people and other turns; null if nothing."""
    input: str | list[TurnInputItem]
    """The prompt as submitted."""
    metadata: dict[str, Any]
    """Arbitrary JSON of the caller, returned unchanged."""
    output: TurnOutput | None
    """The latest message; null if there is none."""
    tool_calls: list[ToolCall]
    """All tool calls, in the order the model requested them."""
    guardrails: list[TurnGuardrail]
    """Guardrails that were triggered."""
    usage: Usage
    """Usage of all attempts."""
    error: TurnError | None
    """Why the turn failed; null if it did not."""
    created_at: str
    """When the turn was accepted."""
    started_at: str | None
    """When the turn was first started."""
    finished_at: str | None
    """When the turn ended; null before that."""
    first_token_ms: int | None
    """Milliseconds from acceptance to the first text; null before that."""


class Turn(_TurnRequired, total=False):
    """One prompt and everything done to answer it."""

    retrieval: TurnRetrieval
    """The last search of the copilot's documents; missing if there was none."""
    replaced_by: str
    """ID of the turn that replaced it; omitted if none did."""


class UpdateConversation(TypedDict, total=False):
    """Change the given fields and leave the rest."""

    title: str
    """Title for display."""
    metadata: dict[str, Any]
    """Arbitrary JSON of the caller, returned unchanged."""


class UpdateFact(TypedDict):
    """The text that takes the place of a fact's."""

    text: str
    """A short statement about the user, in one line of at most 300 bytes."""


class _UsageRequired(TypedDict):
    prompt_tokens: int
    """Tokens of the prompts."""
    completion_tokens: int
    """Tokens of the answers."""
    cached_tokens: int
    """Prompt tokens that the provider read from its cache."""
    cost_usd: float
    """Cost in US dollars."""
    models: list[str]
    """Models that were used."""


class Usage(_UsageRequired, total=False):
    """Tokens and cost."""

    estimated: bool
    """True if part of it is an estimate, because a provider reported no usage; otherwise omitted."""


class _ApprovalDecidedEventRequired(TypedDict):
    type: Literal["approval.decided"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    call_id: str
    """ID of the tool call."""
    decision: Literal["approved", "rejected", "expired"]
    """The decision."""
    by: str
    """Who decided."""


class ApprovalDecidedEvent(_ApprovalDecidedEventRequired, total=False):
    """A tool call was approved or rejected, or its approval expired."""

    arguments: Any
    """Edited arguments that replace the model's."""
    reason: str
    """Reason given for the decision."""


class ApprovalRequestedEvent(TypedDict):
    """A tool call waits for a person's approval."""

    type: Literal["approval.requested"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    call_id: str
    """ID of the tool call."""
    name: str
    """Name of the tool."""
    arguments: Any
    """Arguments of the call."""
    expires_at: str
    """When the approval expires."""


class ClientToolRequestedEvent(TypedDict):
    """A call of a client tool waits for one of the user's pages to claim it."""

    type: Literal["client_tool.requested"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    call_id: str
    """ID of the tool call."""
    name: str
    """Name of the client tool."""
    arguments: Any
    """Arguments of the call; they satisfy the tool's schema."""
    expires_at: str
    """Until when it can be claimed; then the call fails."""


class _ContextAssembledEventRetrievedItemRequired(TypedDict):
    chunk_id: str
    """ID of the chunk."""
    document_id: str
    """ID of the document."""
    external_id: str
    """ID of the document in the tenant's own system."""
    collection: str
    """Collection of the document."""
    title: str | None
    """Title of the document."""
    score: float
    """Relevance; compares the chunks of one turn."""
    included: bool
    """Whether the prompt holds the chunk; if not, it did not fit."""


class ContextAssembledEventRetrievedItem(_ContextAssembledEventRetrievedItemRequired, total=False):
    """A retrieved chunk."""

    uri: str
    """Address of the document."""
    page: int
    """Page on which the chunk begins."""


class ContextAssembledEventRetrievalStep(TypedDict):
    """ContextAssembledEventRetrievalStep"""

    step: Literal["rewrite", "embed", "search", "rerank", "read"]
    """The step."""
    ms: int
    """Milliseconds."""


class _ContextAssembledEventRetrievalRequired(TypedDict):
    status: Literal["completed", "unavailable"]
    """`unavailable`: the search failed or took too long, and the turn ran without documents."""
    is_semantic: bool
    """Whether vectors took part; if not, words alone decided."""
    steps: list[ContextAssembledEventRetrievalStep]
    """The steps that ran."""


class ContextAssembledEventRetrieval(_ContextAssembledEventRetrievalRequired, total=False):
    """How the copilot's documents were searched; missing if they were not, or for an earlier step of the attempt."""

    rewrite_cost_usd: float
    """
    Cost of rewriting the question with the small model, in US dollars; part of the turn's usage. Missing if it was not
    rewritten.
    """
    rerank_cost_usd: float
    """
    Cost of having the small model order the documents, in US dollars; part of the turn's usage. Missing if it was not
    asked.
    """


class _ContextAssembledEventRequired(TypedDict):
    type: Literal["context.assembled"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    prompt_tokens: int
    """Length of the prompt in tokens."""
    summary_upto_seq: int | None
    """The prompt holds a summary of the records up to this sequence number; null if there is none."""
    retrieved: list[ContextAssembledEventRetrievedItem]
    """Chunks that were retrieved for the turn, best first."""


class ContextAssembledEvent(_ContextAssembledEventRequired, total=False):
    """The prompt of a model step was assembled."""

    retrieval: ContextAssembledEventRetrieval
    """How the copilot's documents were searched; missing if they were not, or for an earlier step of the attempt."""


class ConversationErasedEvent(TypedDict):
    """The conversation was erased. Last event of its stream."""

    type: Literal["conversation.erased"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: None
    """Always null."""
    at: str
    """When the event was recorded."""


class ConversationTitledEvent(TypedDict):
    """The conversation had no title, and the small model wrote one."""

    type: Literal["conversation.titled"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: None
    """Always null: it belongs to the conversation."""
    at: str
    """When the event was recorded."""
    title: str
    """The title: one line of at most 60 characters."""


class GuardrailTriggeredEvent(TypedDict):
    """A guardrail was triggered."""

    type: Literal["guardrail.triggered"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    stage: Literal["input", "retrieval", "tool", "output"]
    """Stage at which the guardrail ran."""
    rule: str
    """Name of the rule."""
    action: Literal["allow", "redact", "block", "repair"]
    """Action taken."""


class MemoryCompressedEvent(TypedDict):
    """Older messages were summarised. Takes effect when the next turn starts."""

    type: Literal["memory.compressed"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: None
    """Always null."""
    at: str
    """When the event was recorded."""
    upto_seq: int
    """Sequence number of the last record in the summary."""
    tokens_before: int
    """Tokens before."""
    tokens_after: int
    """Tokens after."""


class MessageCompletedEventToolCall(TypedDict):
    """A tool call."""

    id: str
    """ID of the call."""
    name: str
    """Name of the tool."""
    arguments: Any
    """
    Arguments as the model gave them. A string if they are not valid JSON; `[redacted]` if a guardrail rejected the
    call.
    """


class _MessageCompletedEventRequired(TypedDict):
    type: Literal["message.completed"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    message_id: str
    """ID of the message; known before its first byte and the same after a restart."""
    text: str
    """The whole text."""
    citations: list[Citation]
    """Sources that support the answer."""
    tool_calls: list[MessageCompletedEventToolCall]
    """Tool calls that the model requests."""
    finish: Literal["stop", "tool_calls", "length", "cancelled"]
    """Why the step ended."""


class MessageCompletedEvent(_MessageCompletedEventRequired, total=False):
    """A model step ended. The deltas of the segment concatenate to its text."""

    unsupported: list[list[int]]
    """
    Ranges of the text in UTF-8 bytes, from and to: the sentences that no citation supports. Only if the copilot demands
    citations.
    """


class MessageDeltaEvent(TypedDict):
    """
    A piece of the open message's text. Not a record: `seq` is that of the last record before it, and the offset is in
    the SSE `id`.
    """

    type: Literal["message.delta"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the last record before this piece."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the piece was sent."""
    message_id: str
    """ID of the message; known before its first byte and the same after a restart."""
    text: str
    """The piece of text."""


class MessageResetEvent(TypedDict):
    """Discard the deltas since the turn's last `message.completed`."""

    type: Literal["message.reset"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    message_id: str
    """ID of the message; known before its first byte and the same after a restart."""
    reason: str
    """Why the text was discarded."""


_ModelFallbackEventWords = TypedDict("_ModelFallbackEventWords", {"from": "str"})


class ModelFallbackEvent(_ModelFallbackEventWords):
    """Another model took over."""

    type: Literal["model.fallback"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    to: str
    """Model that answers now."""
    reason: str
    """Why the model was replaced."""


class _ToolCalledEventRequired(TypedDict):
    type: Literal["tool.called"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    call_id: str
    """ID of the tool call."""
    name: str
    """Name of the tool."""
    arguments: Any
    """Final arguments."""


class ToolCalledEvent(_ToolCalledEventRequired, total=False):
    """A tool call may run from now on."""

    expires_at: str
    """Until when the page that claimed the call may answer; only for client tools."""


class _ToolFinishedEventRequired(TypedDict):
    type: Literal["tool.finished"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    call_id: str
    """ID of the tool call."""
    status: Literal["succeeded", "failed", "rejected", "cancelled", "unknown"]
    """Outcome. `unknown`: the request was sent, and whether it took effect cannot be determined."""


class ToolFinishedEvent(_ToolFinishedEventRequired, total=False):
    """A tool call ended."""

    result: Any
    """Result returned by the tool."""
    error: str
    """Why there is no result."""


class TurnCancelledEvent(TypedDict):
    """The turn was cancelled."""

    type: Literal["turn.cancelled"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    usage: Usage
    """Usage of all attempts."""


class TurnCompletedEvent(TypedDict):
    """The turn completed."""

    type: Literal["turn.completed"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    usage: Usage
    """Usage of all attempts."""
    first_token_ms: int | None
    """Milliseconds from acceptance to the first text; null before that."""


class TurnFailedEvent(TypedDict):
    """The turn failed."""

    type: Literal["turn.failed"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    code: Literal["provider_unavailable", "provider_rejected", "content_policy", "context_too_long", "guardrail_blocked", "schema_failed", "limit_steps", "limit_cost", "limit_time", "rate_limited", "budget_exhausted", "attempts_exhausted", "internal"]
    """Stable failure code for programs."""
    message: str
    """Description for people."""
    retryable: bool
    """Whether submitting the same prompt again later may succeed."""


class TurnQueuedEventInputItemText(TypedDict):
    """A piece of text."""

    type: Literal["text"]
    """Type of the part."""
    text: str
    """The text."""


class TurnQueuedEventInputItemFile(TypedDict):
    """A file that this user uploaded to this conversation."""

    type: Literal["file"]
    """Type of the part."""
    file_id: str
    """ID of the file."""


TurnQueuedEventInputItem = TurnQueuedEventInputItemText | TurnQueuedEventInputItemFile


class _TurnQueuedEventRequired(TypedDict):
    type: Literal["turn.queued"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    input: str | list[TurnQueuedEventInputItem]
    """The prompt as submitted."""
    metadata: dict[str, Any]
    """Arbitrary JSON of the caller, returned unchanged."""


class TurnQueuedEvent(_TurnQueuedEventRequired, total=False):
    """A turn was accepted."""

    replaces: str
    """ID of the turn that this one replaces; omitted if it replaces none."""


class TurnStartedEvent(TypedDict):
    """Work on the turn began. A new attempt opens a new segment of text."""

    type: Literal["turn.started"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    attempt: int
    """Number of the attempt, from 1."""
    model: str
    """Model that is called."""


class TurnWaitingEvent(TypedDict):
    """
    The turn waits for its model provider or for a limit, and then tries again. The wait counts neither towards
    `limits.attempts` nor towards `limits.time_s`.
    """

    type: Literal["turn.waiting"]
    position: str
    """The reader's whole position: pass it as `after` to go on behind this event."""
    seq: int
    """Sequence number of the record."""
    turn_id: str
    """ID of the turn."""
    at: str
    """When the event was recorded."""
    reason: Literal["provider_rate_limit", "provider_unavailable", "limit"]
    """
    Reason: the provider rate-limits (429), the provider is down, times out or breaks off its answers, or a limit of the
    tenant, the user or the API key is reached.
    """
    until: str
    """Earliest time at which the turn continues."""


ProblemCode = Literal[
    "budget_exhausted",
    "conflict",
    "forbidden",
    "idempotency_key_reused",
    "internal",
    "invalid",
    "malformed",
    "method_not_allowed",
    "not_acceptable",
    "not_found",
    "not_resumable",
    "not_waiting",
    "overloaded",
    "queue_full",
    "quota_exceeded",
    "rate_limited",
    "timeout",
    "too_large",
    "turn_running",
    "unauthenticated",
    "unavailable",
    "unsupported_media_type",
]


Event = (
    ApprovalDecidedEvent
    | ApprovalRequestedEvent
    | ClientToolRequestedEvent
    | ContextAssembledEvent
    | ConversationErasedEvent
    | ConversationTitledEvent
    | GuardrailTriggeredEvent
    | MemoryCompressedEvent
    | MessageCompletedEvent
    | MessageDeltaEvent
    | MessageResetEvent
    | ModelFallbackEvent
    | ToolCalledEvent
    | ToolFinishedEvent
    | TurnCancelledEvent
    | TurnCompletedEvent
    | TurnFailedEvent
    | TurnQueuedEvent
    | TurnStartedEvent
    | TurnWaitingEvent
)
