"""The `openai` package against the simulated provider."""

import json
import time

import openai
import pytest
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture
def client(provider):
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="key", max_retries=0) as client:
        yield client


def user(text):
    return [{"role": "user", "content": text}]


def test_a_plain_answer(client):
    answer = client.chat.completions.create(model="gpt-4o", messages=user("[[sim text=well said]]"))
    assert answer.choices[0].message.content == "well said"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3


def test_a_stream_with_usage(client):
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=user("[[sim tokens=20]]"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 20
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 20
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_a_tool_turn_by_the_stream_helper(client):
    messages = user('[[sim tool=look calls=2 args={"place": "number $i"}]]')
    with client.chat.completions.stream(model="gpt-4o", messages=messages, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    places = [json.loads(call.function.arguments)["place"] for call in message.tool_calls]
    assert places == ["number 0", "number 1"]
    messages.append(message.to_dict())
    for call, place in zip(message.tool_calls, places):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"{place} is fine"})
    answer = client.chat.completions.create(model="gpt-4o", messages=messages, tools=[TOOL])
    assert "number 1 is fine" in answer.choices[0].message.content


def test_structured_output(client):
    class Report(BaseModel):
        total: int
        summary: str
        subjects: list[str]

    answer = client.chat.completions.parse(
        model="gpt-4o", messages=user("What is going on?"), response_format=Report
    )
    assert answer.choices[0].message.parsed.total == 0


@pytest.mark.parametrize(
    ("directive", "error", "code"),
    [
        ("status=401", openai.AuthenticationError, "invalid_api_key"),
        ("status=404", openai.NotFoundError, "model_not_found"),
        ("status=429 retry_after=2", openai.RateLimitError, "rate_limit_exceeded"),
        ("status=400 code=context_length_exceeded", openai.BadRequestError, "context_length_exceeded"),
        ("status=500", openai.InternalServerError, None),
        ("status=503", openai.InternalServerError, None),
    ],
)
def test_errors_are_understood(client, directive, error, code):
    with pytest.raises(error) as raised:
        client.chat.completions.create(model="m", messages=user(f"[[sim {directive}]]"), stream=True)
    assert raised.value.code == code
    assert raised.value.request_id.startswith("req_")


def test_an_error_inside_the_stream(client):
    stream = client.chat.completions.create(
        model="m", messages=user("[[sim stream_error=server_error text=half]]"), stream=True
    )
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert raised.value.code == "server_error"


def test_a_cut_stream(client):
    stream = client.chat.completions.create(
        model="m", messages=user("[[sim cut_after=4 text=half of it]]"), stream=True
    )
    with pytest.raises(openai.APIConnectionError):
        list(stream)


def test_the_clients_own_retries(provider):
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="key", max_retries=2) as client:
        prompt = "[[sim fail_times=2 status=503 text=at last]]"
        answer = client.chat.completions.create(model="m", messages=user(prompt))
    assert answer.choices[0].message.content == "at last"
    assert provider.state()["prompts"][prompt] == 3


def test_leaving_is_noticed(client, provider):
    stream = client.chat.completions.create(
        model="m", messages=user("[[sim stall_after=3 text=one two]]"), stream=True
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 5
    while provider.state()["closed_by_client"]["count"] != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_models_and_embeddings(client):
    assert "gpt-4o" in [model.id for model in client.models.list()]
    answer = client.embeddings.create(model="text-embedding-3-small", input=["red car", "red bus"])
    red_car, red_bus = (item.embedding for item in answer.data)
    assert len(red_car) == 1536
    assert 0.2 < sum(a * b for a, b in zip(red_car, red_bus)) < 0.9
