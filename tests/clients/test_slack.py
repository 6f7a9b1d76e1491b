"""`slack_sdk` against the simulated Slack."""

import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler
from slack_sdk.models.blocks import SectionBlock
from slack_sdk.models.metadata import Metadata


@pytest.fixture
def client(slack):
    return WebClient(token="xoxb-1", base_url=f"{slack.url}/api/")


def test_who_am_i(client):
    who = client.auth_test()
    assert who["bot_id"].startswith("B")


def test_a_post_is_found_again_by_its_metadata(client, slack):
    posted = client.chat_postMessage(
        channel="#support",
        text="Eight tickets wait",
        blocks=[SectionBlock(text="*Eight* tickets wait")],
        metadata=Metadata(event_type="copilotd_call", event_payload={"call_id": "c-1"}),
        unfurl_links=False,
    )
    channel = posted["channel"]
    found = [
        message
        for page in client.conversations_history(channel=channel, include_all_metadata=True, limit=1)
        for message in page["messages"]
        if message.get("metadata", {}).get("event_payload", {}).get("call_id") == "c-1"
    ]
    assert [message["ts"] for message in found] == [posted["ts"]]
    assert found[0]["blocks"][0]["type"] == "section"
    assert sum(entry["applied"] for entry in slack.state()["journal"]) == 1


def test_threads_updates_and_reactions(client):
    parent = client.chat_postMessage(channel="C0SUPPORT01", text="Question")
    where = {"channel": parent["channel"], "ts": parent["ts"]}
    client.chat_postMessage(channel=where["channel"], thread_ts=where["ts"], text="Answer")
    client.chat_update(**where, text="Question, edited")
    client.reactions_add(channel=where["channel"], timestamp=where["ts"], name="eyes")
    thread = client.conversations_replies(**where)["messages"]
    assert [message["text"] for message in thread] == ["Question, edited", "Answer"]
    assert thread[0]["reactions"][0]["name"] == "eyes"
    client.chat_delete(**where)


def test_lookups_and_pages(client):
    user = client.users_lookupByEmail(email="ada@example.com")["user"]
    assert client.users_info(user=user["id"])["user"]["profile"]["email"] == "ada@example.com"
    names = [
        channel["name"]
        for page in client.conversations_list(limit=1, exclude_archived=True)
        for channel in page["channels"]
    ]
    assert names == ["support", "general", "random"]
    everyone = [user["name"] for page in client.users_list(limit=2) for user in page["members"]]
    assert len(everyone) == 4


def test_a_direct_message(client):
    user = client.users_lookupByEmail(email="bob@example.com")["user"]["id"]
    channel = client.conversations_open(users=user)["channel"]["id"]
    assert client.chat_postMessage(channel=channel, text="Hi")["channel"] == channel
    assert client.conversations_info(channel=channel)["channel"]["user"] == user


def test_a_streamed_message(client, slack):
    parent = client.chat_postMessage(channel="C0SUPPORT01", text="Question")
    stream = client.chat_stream(
        channel=parent["channel"],
        thread_ts=parent["ts"],
        recipient_team_id="T0SIMULATED",
        recipient_user_id="U0SIMADA01",
        buffer_size=8,
    )
    for piece in ["Once ", "upon a ", "time, ", "all was well."]:
        stream.append(markdown_text=piece)
    stopped = stream.stop()
    assert stopped["message"]["text"] == "Once upon a time, all was well."
    client.assistant_threads_setStatus(
        channel_id=parent["channel"], thread_ts=parent["ts"], status="is thinking"
    )
    assert slack.state()["statuses"][0]["status"] == "is thinking"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"channel": "#nowhere", "text": "a"}, "channel_not_found"),
        ({"channel": "#random", "text": "a"}, "not_in_channel"),
        ({"channel": "#old-news", "text": "a"}, "is_archived"),
        ({"channel": "#support", "text": "a" * 40_001}, "msg_too_long"),
    ],
)
def test_errors_are_understood(client, arguments, error):
    with pytest.raises(SlackApiError) as raised:
        client.chat_postMessage(**arguments)
    assert raised.value.response["error"] == error


def test_rate_limits_are_waited_for(client, slack):
    slack.knobs(fail_next=[{"path_contains": "chat.postMessage", "status": 429, "retry_after": 1}])
    client.retry_handlers.append(RateLimitErrorRetryHandler(max_retry_count=1))
    client.chat_postMessage(channel="#support", text="patient")
    statuses = [entry["status"] for entry in slack.state()["journal"]]
    assert statuses == [429, 200]
