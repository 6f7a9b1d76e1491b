"""The reducer: folding the stream gives what the pages say, whatever was lost and repeated in between."""

import hypothesis.strategies as st
from fake import AT, FakeServer, timeline_of
from hypothesis import given
from test_client_streams import FAULTS, TURNS, last_of, read

from copilotd import ConversationState, add_page, apply, text_of, words_of
from copilotd.state import NoticeItem, TextItem, ToolItem


def events_of(timeline):
    """The events as a stream from the beginning gives them."""
    seq, offset = 0, 0
    for step in timeline:
        data = step["data"]
        if step["seq"]:
            seq, offset = step["seq"], 0
            yield {**data, "type": step["type"], "position": str(seq)}
        else:
            offset += len(data["text"].encode())
            yield {**data, "type": step["type"], "seq": seq, "position": f"{seq}.{offset}"}


def fold(events, state=None):
    state = state or ConversationState()
    for event in events:
        state = apply(state, event)
    return state


def shown(state):
    """What a page can tell, too: it has neither notices nor why a step ended."""
    turns = []
    for turn in state.turns:
        texts = [(item.id, item.text) for item in turn.items if isinstance(item, TextItem)]
        calls = [(item.id, item.status, item.result) for item in turn.items if isinstance(item, ToolItem)]
        turns.append((turn.id, turn.status, turn.attempt, words_of(turn.input), texts, calls, turn.error))
    return turns


@given(TURNS, st.integers(0, 30), st.integers(1, 7))
def test_pages_and_the_stream_behind_them_give_what_the_whole_stream_gives(turns, at, limit):
    timeline = timeline_of(turns)
    server = FakeServer(timeline, now=min(at, len(timeline)))
    page = server.page(limit=str(limit), order="desc")
    state = add_page(ConversationState(), page)
    while state.cursor:
        state = add_page(state, server.page(limit=str(limit), order="desc", cursor=state.cursor))
    assert state.pending == ()
    # The stream behind the page, whose open message comes from its beginning.
    last = page["last_seq"]
    behind = [e for e in events_of(timeline) if e["seq"] > last or (e["type"] == "message.delta" and e["seq"] == last)]
    whole = fold(events_of(timeline))
    assert shown(fold(behind, state)) == shown(whole)
    # What is known already changes nothing.
    assert shown(fold(events_of(timeline), whole)) == shown(whole)
    said = {each["message_id"] for each in events_of(timeline) if each["type"] == "message.completed"}
    late = [each for each in events_of(timeline) if each["type"] == "message.delta" and each["message_id"] in said]
    assert shown(fold(late, whole)) == shown(whole)


@given(TURNS, FAULTS)
def test_a_stream_that_breaks_folds_to_the_log(make, run, turns, faults):
    timeline = timeline_of(turns)
    server = FakeServer(timeline, faults)
    conversation = make(server.handle, token=server.issue).conversation("conv_1")
    state = fold(run(read(conversation.events(after=0), last_of(timeline))))
    server.now = len(timeline)
    page = add_page(ConversationState(), server.page(limit="1000", order="desc"))
    assert shown(state) == shown(page)
    assert all(turn.is_ended for turn in state.turns)


def event(kind, **data):
    return {"type": kind, "position": "9", "seq": 9, "turn_id": "turn_0", "at": AT, **data}


def test_an_approval_makes_the_turn_wait_until_it_is_decided():
    timeline = timeline_of([{"steps": [{"pieces": ["a"], "call": True}]}])
    upto = next(i for i, step in enumerate(timeline) if step["type"] == "tool.called")
    state = fold(list(events_of(timeline))[:upto])
    call = "call_0_0"
    state = apply(state, event("approval.requested", call_id=call, name="look", arguments={"n": 0}, expires_at=AT))
    assert state.turns[0].status == "awaiting_approval"
    decided = event("approval.decided", call_id=call, decision="approved", arguments={"n": 1}, by="ada")
    state = apply(state, decided)
    assert state.turns[0].status == "running"
    (item,) = (item for item in state.turns[0].items if isinstance(item, ToolItem))
    assert (item.status, item.arguments, item.decided_by) == ("running", {"n": 1}, "ada")
    # A late event does not take it back.
    again = apply(state, event("approval.requested", call_id=call, name="look", arguments={}, expires_at=AT))
    assert again.turns == state.turns


def test_a_turn_that_was_replaced_says_so():
    state = fold(events_of(timeline_of([{"steps": [{"pieces": ["a"]}]}])))
    queued = {**event("turn.queued", input="again", metadata={}, replaces="turn_0"), "turn_id": "turn_1"}
    state = apply(state, queued)
    assert [(turn.id, turn.replaced_by) for turn in state.turns] == [("turn_0", "turn_1"), ("turn_1", None)]


def test_an_unknown_event_changes_the_position_only():
    state = fold(events_of(timeline_of([{"steps": [{"pieces": ["a", "b"]}]}])))
    after = apply(state, event("thought.shared", thought="hm"))
    assert (after.turns, after.position) == (state.turns, "9")
    assert text_of(after.turns[0]) == "ab"


def test_notices_are_kept_once_and_erasure_leaves_nothing():
    state = fold(events_of(timeline_of([{"steps": [{"pieces": ["a"], "notice": True}]}])))
    fallback = event("model.fallback", **{"from": "a", "to": "b", "reason": "timeout"})
    for _ in range(2):
        state = apply(state, fallback)
    notices = [item for item in state.turns[0].items if isinstance(item, NoticeItem)]
    assert len(notices) == 2
    state = apply(state, event("conversation.erased"))
    assert state == ConversationState(position="9", is_erased=True)
