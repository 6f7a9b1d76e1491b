"""A server in memory that keeps the API's promises about streams, idempotency keys and messages, and breaks everything
that it does not promise: connections, answers, tokens."""

import asyncio
import itertools
import json

import httpx

OPENS_SEGMENT = {"turn.started", "message.reset", "message.completed"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0, "cost_usd": 0, "models": []}
AT = "2026-11-30T12:00:00Z"


def timeline_of(turns):
    """A conversation's whole course: durable records with a `seq`, and between them the pieces of released text.

    `turns` is a list of `{steps: [{pieces, end, notice?, call?}], end}`.
    """
    timeline = []
    seq = 0

    def record(kind, turn, **more):
        nonlocal seq
        # Numbers may skip.
        seq += 2 if seq % 3 == 2 else 1
        timeline.append({"type": kind, "seq": seq, "data": {"seq": seq, "turn_id": turn, "at": AT, **more}})

    for n, course in enumerate(turns):
        turn = f"turn_{n}"
        record("turn.queued", turn, input=f"question {n}", metadata={})
        record("turn.started", turn, attempt=1, model="main")
        for step, said in enumerate(course["steps"]):
            message_id = f"msg_{n}_{step}"
            for index, text in enumerate(said["pieces"]):
                data = {"turn_id": turn, "at": AT, "message_id": message_id, "text": text}
                timeline.append({"type": "message.delta", "seq": None, "data": data})
                # A durable event in the middle of a message.
                if said.get("notice") and index == 0:
                    record("model.fallback", turn, **{"from": "a", "to": "b", "reason": "timeout"})
            if said.get("end") == "reset":
                record("message.reset", turn, message_id=message_id, reason="restart")
                continue
            calls = []
            if said.get("call"):
                calls = [{"id": f"call_{n}_{step}", "name": "look", "arguments": {"n": n}}]
            more = {"citations": [], "tool_calls": calls, "finish": "tool_calls" if calls else "stop"}
            record("message.completed", turn, message_id=message_id, text="".join(said["pieces"]), **more)
            for call in calls:
                record("tool.called", turn, call_id=call["id"], name="look", arguments=call["arguments"])
                record("tool.finished", turn, call_id=call["id"], status="succeeded", result={"n": n})
        end = course.get("end", "completed")
        if end == "failed":
            record("turn.failed", turn, code="internal", message="no", retryable=True)
        else:
            record(f"turn.{end}", turn, usage=USAGE, first_token_ms=5)
    return timeline


def frame(kind, position, data):
    return f"event: {kind}\nid: {position}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def problem(status, code, **headers):
    body = {"type": f"https://copilotd.dev/problems/{code}", "title": code.capitalize(), "status": status, "code": code}
    body |= {"request_id": "req_1", "retry": "safe", "detail": "in this case"}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"content-type": "application/problem+json", **headers}, json.dumps(body).encode()


def answer(body, status=200):
    return status, {"content-type": "application/json"}, json.dumps(body).encode()


class FakeServer:
    """Serves one conversation whose course is `timeline`; `now` counts what has happened.

    `faults` are used one after the other, one for each connection; then everything works. `sizes` are the lengths of
    the pieces in which streams arrive.
    """

    def __init__(self, timeline=(), faults=(), now=0, sizes=()):
        self.timeline = list(timeline)
        self.faults = list(faults)
        self.now = now
        self.sizes = list(sizes)
        self.requests = []
        self.token = "token-0"
        self.issued = 0
        self.is_refused = False
        self.open = 0
        # By idempotency key: what was created, and the body that created it.
        self.created = {}
        # Answers to particular requests, by method and path.
        self.answers = {}

    def issue(self):
        self.issued += 1
        return self.token

    @property
    def seq(self):
        return max((step["seq"] or 0 for step in self.timeline[: self.now]), default=0)

    def handle(self, request):
        """Returns a status, headers, and a body: bytes, or an iterator of them that may raise."""
        self.requests.append(request)
        fault = self.faults.pop(0) if self.faults else {"kind": "none"}
        kind = fault["kind"]
        if kind == "restart":
            # The process is gone for a while.
            self.faults[:0] = [{"kind": "refused"}] * 2
        if kind == "refused":
            raise httpx.ConnectError("connection refused")
        # A new token works until the one who was refused has used it.
        if kind == "expired" and not self.is_refused:
            self.token = f"token-{len(self.requests)}"
        self.is_refused = request.headers["authorization"] != f"Bearer {self.token}"
        if self.is_refused:
            return problem(401, "unauthenticated")
        if kind == "busy":
            return problem(503, "overloaded", retry_after="0")
        if kind == "proxy":
            return 502, {"content-type": "text/html"}, b"<h1>Bad gateway</h1>"
        self.now = min(len(self.timeline), self.now + fault.get("passes", 0))
        if request.url.path.endswith("/events"):
            return self._stream(request, fault)
        status, headers, body = self._respond(request)
        if kind in ("cut", "broken", "restart", "silent"):
            # It was done, and nobody hears of it.
            body = self._broken(body[: fault["after"]], kind)
        return status, headers, body

    @staticmethod
    def _broken(body, kind):
        yield body
        if kind == "silent":
            raise httpx.ReadTimeout("silence")
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    def _respond(self, request):
        path, method = request.url.path, request.method
        if (method, path) in self.answers:
            return self.answers[method, path]
        if method == "POST" and (path.endswith("/turns") or path == "/v1/conversations"):
            return self._create(request)
        if path.endswith("/messages"):
            return answer(self.page(**dict(request.url.params)))
        if path == "/v1/conversations/conv_1":
            return answer({"id": "conv_1", "last_seq": self.seq})
        if method == "GET" and path.startswith("/v1/turns/"):
            return answer(self._turn(path.rsplit("/", 1)[1]))
        return problem(404, "not_found")

    def _create(self, request):
        key, body = request.headers["idempotency-key"], json.loads(request.content)
        resource, before = self.created.setdefault(key, ({"id": f"new_{len(self.created)}"}, body))
        if before != body:
            return problem(409, "idempotency_key_reused")
        return answer(resource, 202 if request.url.path.endswith("/turns") else 201)

    def _turn(self, turn):
        texts = [step["data"] for step in self.timeline if step["data"]["turn_id"] == turn]
        last = [data["text"] for data in texts if "finish" in data]
        kind = [step["type"] for step in self.timeline if step["data"]["turn_id"] == turn][-1]
        status = kind.removeprefix("turn.")
        error = {"code": "internal", "message": "no"} if status == "failed" else None
        return {"id": turn, "status": status, "output": {"text": last[-1]} if last else None, "error": error}

    def page(self, limit="20", cursor=None, order="asc"):
        """What a page of messages says: the whole turns and messages of the log as it is now."""
        messages, turns = [], {}

        def message(role, id, content, data):
            parts = [{"type": "text", "text": content}] if content else []
            more = {"turn_id": data["turn_id"], "role": role, "content": parts, "created_at": AT, "seq": data["seq"]}
            messages.append({"id": id, **more})

        for step in self.timeline[: self.now]:
            kind, data = step["type"], step["data"]
            turn = turns.get(data["turn_id"])
            if kind == "turn.queued":
                turns[data["turn_id"]] = {
                    "id": data["turn_id"], "status": "queued", "attempt": 0, "waiting": None, "metadata": {},
                    "tool_calls": [], "guardrails": [], "usage": USAGE, "feedback": None, "error": None,
                    "first_token_ms": None, "finished_at": None,
                }  # fmt: skip
                message("user", f"msg_in_{data['turn_id']}", data["input"], data)
            elif kind == "turn.started":
                turn |= {"status": "running", "attempt": data["attempt"]}
            elif kind == "message.completed":
                message("assistant", data["message_id"], data["text"], data)
                turn["tool_calls"] += [{**call, "status": "proposed"} for call in data["tool_calls"]]
            elif kind == "tool.called":
                turn["tool_calls"][-1] |= {"status": "running"}
            elif kind == "tool.finished":
                turn["tool_calls"][-1] |= {"status": data["status"], "result": data["result"]}
                message("tool", f"msg_{data['call_id']}", json.dumps(data["result"]), data)
            elif kind.startswith("turn."):
                turn |= {"status": kind[5:], "finished_at": AT, "first_token_ms": data.get("first_token_ms")}
                if kind == "turn.failed":
                    turn["error"] = {"code": data["code"], "message": data["message"]}
        if order == "desc":
            messages.reverse()
        left = [each for each in messages if cursor is None or each["seq"] < int(cursor)]
        data = left[: int(limit)]
        ids = {each["turn_id"] for each in data}
        return {
            "data": data,
            "turns": [turn for turn in turns.values() if turn["id"] in ids],
            "next_cursor": str(data[-1]["seq"]) if len(data) < len(left) else None,
            "last_seq": self.seq,
        }

    def _stream(self, request, fault):
        position = request.headers.get("last-event-id", "0")
        seq, _, offset = position.partition(".")
        if int(seq) > self.seq and int(seq) > 0:
            return problem(410, "not_resumable")
        is_turn = request.url.path.startswith("/v1/turns/")
        body = self._cut(self._events(int(seq), int(offset or 0)), fault, is_turn)
        return 200, {"content-type": "text/event-stream; charset=utf-8"}, body

    def _cut(self, frames, fault, is_turn):
        """Sends frames in pieces of other sizes, until the fault's last byte."""
        left = (
            fault.get("after", float("inf"))
            if fault["kind"] in ("cut", "broken", "silent", "restart")
            else float("inf")
        )
        sizes = itertools.cycle(self.sizes or [None])
        buffer = b""
        self.open += 1
        try:
            for bytes_ in frames:
                buffer += bytes_
                while buffer:
                    size = next(sizes) or len(buffer)
                    piece, buffer = buffer[: min(size, left)], buffer[min(size, left) :]
                    left -= len(piece)
                    if piece:
                        yield piece
                    if left <= 0:
                        if fault["kind"] == "cut":
                            return
                        if fault["kind"] == "silent":
                            raise httpx.ReadTimeout("silence")
                        raise httpx.ReadError("connection reset by peer")
            # A conversation's stream stays open; nothing more comes.
            if not is_turn:
                raise AssertionError("read behind the end of the log")
        finally:
            self.open -= 1

    def _events(self, from_seq, from_offset):
        """The stream behind a position, as the API promises it. Time passes when there is nothing left to send."""
        yield b": stream\n\nretry: 2\n\n"
        seq = offset = 0
        for i, step in enumerate(self.timeline):
            if step["seq"]:
                self.now = max(self.now, i + 1)
                seq = step["seq"]
                if step["type"] in OPENS_SEGMENT:
                    offset = 0
                if seq > from_seq:
                    yield frame(step["type"], f"{seq}.{offset}" if offset else str(seq), step["data"])
                continue
            opened_by, closed_at = self._segment(i)
            closed_by = self.timeline[closed_at]
            text = step["data"]["text"].encode()
            before, offset = offset, offset + len(text)
            # Already sent: in an earlier segment, or before the offset in the one of the position.
            if closed_by["seq"] <= from_seq:
                continue
            start = from_offset if opened_by <= from_seq else 0
            if offset <= start:
                continue
            if i >= self.now:
                self.now = i + 1
            # What was discarded meanwhile is not told.
            elif closed_by["type"] == "message.reset" and closed_at < self.now:
                continue
            rest = text[max(0, start - before) :].decode()
            number = max(seq, from_seq)
            yield frame("message.delta", f"{number}.{offset}", {**step["data"], "seq": number, "text": rest})

    def _segment(self, index):
        """The number of the record that opened the segment of a piece of text, and where the one is that closes it."""
        opens = [step["seq"] for step in self.timeline[:index] if step["type"] in OPENS_SEGMENT]
        closes = (i for i in range(index, len(self.timeline)) if self.timeline[i]["type"] in OPENS_SEGMENT)
        return opens[-1], next(closes)


class _Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, body):
        self.body = body

    def __iter__(self):
        yield from self.body

    async def __aiter__(self):
        for piece in self.body:
            await asyncio.sleep(0)
            yield piece

    def close(self):
        if hasattr(self.body, "close"):
            self.body.close()

    async def aclose(self):
        self.close()


class FakeTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Leads the requests of httpx to a server in memory, or to a function in its place."""

    def __init__(self, handle):
        self.handle = handle

    def handle_request(self, request):
        request.read()
        status, headers, body = self.handle(request)
        return httpx.Response(status, headers=headers, stream=_Pieces([body] if isinstance(body, bytes) else body))

    async def handle_async_request(self, request):
        await asyncio.sleep(0)
        await request.aread()
        status, headers, body = self.handle(request)
        return httpx.Response(status, headers=headers, stream=_Pieces([body] if isinstance(body, bytes) else body))
