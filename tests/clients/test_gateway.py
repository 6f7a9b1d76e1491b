"""Unmodified OpenAI clients from PyPI and npm against the gateway of the running server."""

import json
import os
import pathlib
import subprocess
import time

import openai
import pytest
import requests
from demo import Demo
from guide import blocks
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("gateway"))
    yield demo
    demo.stop()


@pytest.fixture
def client(demo):
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key=key(demo), max_retries=0) as client:
        yield client


def key(demo) -> str:
    return demo.about["tenants"]["acme"]["gateway_key"]


def user(text):
    return [{"role": "user", "content": text}]


def provider(demo) -> dict:
    return requests.get(f"{demo.about['sim']['openai']}/_sim/state", timeout=10).json()


def test_a_whole_answer_bears_what_became_of_it(client):
    raw = client.chat.completions.with_raw_response.create(model="default", messages=user("[[sim text=well said]]"))
    answer = raw.parse()
    assert answer.choices[0].message.content == "well said"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3
    assert raw.headers["x-copilotd-model"] == "main/sim-large"
    assert raw.headers["x-copilotd-attempts"] == "1"
    assert raw.headers["x-copilotd-cache"] in ("miss", "bypass")
    assert float(raw.headers["x-copilotd-cost-usd"]) >= 0
    assert raw.headers["cache-control"] == "no-store"
    assert raw.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("mode", ["live", "buffered"])
def test_a_stream_with_usage(client, mode):
    stream = client.chat.completions.create(
        model="default",
        messages=user("[[sim tokens=20]]"),
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-copilotd-mode": mode},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 20
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 20
    # The demo's prices, in dollars per million tokens.
    usage = chunks[-1].usage
    assert usage.cost_usd == pytest.approx((usage.prompt_tokens * 2.5 + usage.completion_tokens * 10) / 1e6)
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_no_usage_chunk_unless_it_is_asked_for(client):
    chunks = list(client.chat.completions.create(model="default", messages=user("[[sim text=a b]]"), stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_a_tool_turn_by_the_stream_helper(client):
    messages = user('[[sim tool=look calls=2 args={"place": "number $i"}]]')
    with client.chat.completions.stream(model="default", messages=messages, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    places = [json.loads(call.function.arguments)["place"] for call in message.tool_calls]
    assert places == ["number 0", "number 1"]
    messages.append(message.to_dict())
    for call, place in zip(message.tool_calls, places):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"{place} is fine"})
    answer = client.chat.completions.create(model="default", messages=messages, tools=[TOOL])
    assert "number 1 is fine" in answer.choices[0].message.content


def test_structured_output(client):
    class Report(BaseModel):
        total: int
        summary: str
        subjects: list[str]

    answer = client.chat.completions.parse(
        model="default", messages=user("What is going on?"), response_format=Report
    )
    assert answer.choices[0].message.parsed.total == 0


@pytest.mark.parametrize(
    ("directive", "error", "code"),
    [
        ("status=401", openai.InternalServerError, "upstream_credentials_exhausted"),
        ("status=400 code=context_length_exceeded", openai.BadRequestError, "context_length_exceeded"),
        ("status=400 code=content_filter", openai.BadRequestError, "content_policy"),
        ("status=500", openai.InternalServerError, "upstream_unavailable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_understood(client, directive, error, code, stream):
    with pytest.raises(error) as raised:
        client.chat.completions.create(model="default", messages=user(f"[[sim {directive}]]"), stream=stream)
    assert raised.value.code == code
    assert raised.value.request_id.startswith("req_")


def test_wrong_models_and_keys(client, demo):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nope", messages=user("x"))
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="nope", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    # A user token without the scope gateway is not a key for the gateway.
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key=demo.token(), max_retries=0) as other:
        with pytest.raises(openai.PermissionDeniedError):
            other.models.list()


def test_an_answer_that_dies_is_an_error_and_not_an_end(client):
    stream = client.chat.completions.create(
        model="default", messages=user("[[sim cut_after=4 text=half of it]]"), stream=True
    )
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert raised.value.code == "upstream_cut"


def test_buffered_an_answer_that_dies_is_asked_for_again(client):
    # An unhealthy target is tried only once; earlier tests made this provider fail.
    for _ in range(5):
        client.chat.completions.create(model="default", messages=user("[[sim text=well]]"))
    stream = client.chat.completions.create(
        model="default",
        messages=user("[[sim cut_after=4 fail_times=1 text=half of it]]"),
        stream=True,
        extra_headers={"x-copilotd-mode": "buffered"},
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == "half of it"


def test_a_client_that_leaves_stops_the_provider(client, demo):
    before = provider(demo)["closed_by_client"]["count"]
    stream = client.chat.completions.create(
        model="default", messages=user("[[sim stall_after=3 text=one two]]"), stream=True
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 5
    while provider(demo)["closed_by_client"]["count"] != before + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_guide_s_example_runs_as_it_stands(demo):
    (example,) = blocks("gateway.md", "python")
    names: dict = {}
    code = example.replace("http://127.0.0.1:8080", demo.url).replace("cpk_…", key(demo))
    exec(compile(code, "docs/integrate/gateway.md", "exec"), names)
    names["client"].close()
    assert names["answer"].choices[0].message.content


def test_models_and_embeddings(client):
    models = [model.id for model in client.models.list()]
    assert "default" in models and "main/sim-large" in models
    assert client.models.retrieve("main/sim-large").id == "main/sim-large"
    answer = client.embeddings.create(model="default", input=["red car", "red bus"])
    red_car, red_bus = (item.embedding for item in answer.data)
    assert 0.2 < sum(a * b for a, b in zip(red_car, red_bus)) < 0.9


def test_langchain(demo):
    connection = {"base_url": f"{demo.url}/v1", "api_key": key(demo), "max_retries": 0}
    chat = ChatOpenAI(model="default", **connection)
    answer = chat.invoke([HumanMessage("[[sim text=well said]]")])
    assert answer.content == "well said"
    assert answer.usage_metadata["output_tokens"] == 3
    assert "".join(part.content for part in chat.stream("[[sim chunk=2 text=one two three]]")) == "one two three"
    asked = chat.bind_tools([TOOL]).invoke('[[sim tool=look args={"place": "here"}]]')
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("look", {"place": "here"})]

    class Report(BaseModel):
        """The simulator's current state."""

        total: int
        summary: str

    assert chat.with_structured_output(Report).invoke("What is going on?").total == 0
    vectors = OpenAIEmbeddings(model="default", check_embedding_ctx_length=False, **connection)
    assert len(vectors.embed_documents(["red car", "red bus"])) == 2


def node(script: str, *arguments: str) -> str:
    path = pathlib.Path(__file__).with_name(script)
    done = subprocess.run(["node", str(path), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def test_the_openai_package_of_npm(demo):
    assert "COPILOTD_NODE_MODULES" in os.environ, "scripts/setup names the directory"
    got = json.loads(node("gateway.mjs", f"{demo.url}/v1", key(demo)))
    assert got["whole"] == "well said"
    assert got["text"] == "Grüße € 😀"
    assert got["usage"]["completion_tokens"] > 0
    assert got["calls"] == ["number 0", "number 1"]
    assert "default" in got["models"]
    assert got["dimensions"][0] == got["dimensions"][1] > 0
    failures = got["failures"]
    assert failures["model"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert failures["cut"]["code"] == "upstream_cut"
    assert failures["key"]["kind"] == "AuthenticationError"


def test_the_rules_of_a_tenant_hold_for_streams_and_documents(demo):
    operator = {"authorization": f"Bearer {demo.token_with('operator')}"}
    tenant = f"{demo.url}/v1/operator/tenants/globex"

    def change(settings):
        body = {"settings": settings}
        requests.patch(tenant, json=body, headers=operator, timeout=10).raise_for_status()

    def ask(client, **more):
        return client.chat.completions.create(
            model="default", messages=user("[[sim text=I met Bluebird who has sk-1 and more]]"), **more
        )

    def streamed(client):
        chunks = [chunk for chunk in ask(client, stream=True) if chunk.choices]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return text, chunks[-1].choices[0].finish_reason

    gateway_key = demo.about["tenants"]["globex"]["gateway_key"]
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key=gateway_key, max_retries=0) as client:
        name = {"name": "codename", "literal": "bluebird", "action": "redact"}
        secret = {"name": "key", "literal": "sk-"}
        for rules, text, finish in [
            ([name], "I met [redacted] who has sk-1 and more", "stop"),
            ([name, secret], "I met [redacted] who has ", "content_filter"),
        ]:
            change({"deny_output": rules})
            choice = ask(client).choices[0]
            assert (choice.message.content, choice.finish_reason) == (text, finish)
            assert streamed(client) == (text, finish)
        change({"deny_output": None, "deny_input": [{"name": "names", "literal": "bluebird"}]})
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client)
        assert refused.value.code == "content_policy"
        change({"deny_input": None})
        assert ask(client).choices[0].message.content.endswith("sk-1 and more")
