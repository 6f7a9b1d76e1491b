"""The parser of event streams: the HTML standard's rules, in pieces of any size."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from copilotd import SseMessage, SseParser

CASES = [
    ("an event", "event: a\nid: 1\ndata: b\n\n", [("a", "b", "1")]),
    ("without a type", "data: b\n\n", [("message", "b", "")]),
    ("several lines of data", "data: a\ndata:b\ndata\n\n", [("message", "a\nb\n", "")]),
    ("one space is removed", "data:  a\n\n", [("message", " a", "")]),
    ("all line ends", "data: a\r\ndata: b\rdata: c\n\r\n", [("message", "a\nb\nc", "")]),
    ("a byte order mark", "\ufeffdata: a\n\n", [("message", "a", "")]),
    ("only the first one", "data: \ufeffa\n\n\ufeffdata: b\n\n", [("message", "\ufeffa", "")]),
    ("comments and unknown fields", ": hi\nfoo: bar\ndata: a\n: more\n\n", [("message", "a", "")]),
    ("an id stays", "id: 1\ndata: a\n\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
    ("an id is taken back", "id: 1\ndata: a\n\nid\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "")]),
    ("an id with a null is ignored", "id: 1\0\ndata: a\n\n", [("message", "a", "")]),
    ("a type is for one block", "event: x\n\ndata: a\n\n", [("message", "a", "")]),
    ("an event that is not ended", "data: a\n\ndata: b\n", [("message", "a", "")]),
    ("what separates lines elsewhere", "data: a\u2028b\x0bc\x85d\n\n", [("message", "a\u2028b\x0bc\x85d", "")]),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_blocks(text, expected, size):
    parser, messages = SseParser(), []
    data = text.encode()
    for start in range(0, len(data), size):
        messages += parser.push(data[start : start + size])
    assert messages == [SseMessage(*each) for each in expected]


def test_a_block_without_data_moves_the_position_once_it_ends():
    parser = SseParser()
    assert parser.push(b"id: 7\n") == []
    assert parser.id == ""
    assert parser.push(b"\n") == []
    assert parser.id == "7"


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("retry: 2000", 2.0),
        ("retry: 0", 0.0),
        ("retry: -1", None),
        ("retry: 1e3", None),
        ("retry: ٣", None),
        ("retry", None),
    ],
)
def test_the_reconnection_time(line, seconds):
    parser = SseParser()
    parser.push(f"{line}\n\n".encode())
    assert parser.retry == seconds


@given(
    st.lists(st.sampled_from(["data: ä🚀", "id: 1", "event: e", ":", "", "x"])), st.lists(st.integers(1, 9), min_size=1)
)
def test_the_pieces_do_not_matter(lines, sizes):
    for end in ("\n", "\r", "\r\n"):
        data = (end.join([*lines, "", ""])).encode()
        whole = SseParser().push(data)
        parser, messages, start, turn = SseParser(), [], 0, 0
        while start < len(data):
            size = sizes[turn % len(sizes)]
            messages += parser.push(data[start : start + size])
            start, turn = start + size, turn + 1
        assert messages == whole


def test_an_event_is_bounded_and_comments_are_not():
    parser = SseParser(max_chars=100)
    for _ in range(1000):
        assert parser.push(b": a comment that is not kept\n") == []
    with pytest.raises(ValueError, match="more than 100 characters"):
        parser.push(b"data: " + b"x" * 100)
    parser = SseParser(max_chars=100)
    with pytest.raises(ValueError, match="more than 100 characters"):
        parser.push(b"data\n" * 1000)
