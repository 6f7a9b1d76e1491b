"""The programs of docs/integrate/tokens.md mint tokens that the server accepts."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import jwt
import pytest
import requests
import tree_sitter
import tree_sitter_go
import tree_sitter_java
from demo import binary, free_port
from guide import PAGES, blocks, run_shell
from server import Server

PYTHON, NODE = blocks("tokens.md", "python")[0], blocks("tokens.md", "js")[0]

# A conversation needs a copilot, but no model is called.
BASE = """
[server]
listen = "127.0.0.1:0"
data_dir = "data"
[[providers]]
name = "main"
base_url = "http://127.0.0.1:1/v1"
api_key = { value = "none" }
[[routes]]
name = "default"
targets = [{ provider = "main", model = "m", context_tokens = 8000 }]
[[tenants]]
id = "acme"
[[tenants.copilots]]
name = "support"
route = "default"
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> pathlib.Path:
    """A directory with the key pair that the page has its reader make."""
    directory = tmp_path_factory.mktemp("keys")
    make, verify = blocks("tokens.md", "sh")
    assert verify.startswith("copilotd token verify")
    # openssl reports its progress to standard error.
    run_shell([make.replace("\n", " 2> openssl.txt\n")], directory)
    return directory


@contextlib.contextmanager
def serving(directory: pathlib.Path, issuer: str):
    config = directory / "copilotd.toml"
    config.write_text(BASE + issuer, encoding="utf-8")
    server = Server(config)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def backend(directory: pathlib.Path):
    """Runs the page's Node backend; yields its address."""
    port = free_port()
    script = directory / "backend.mjs"
    script.write_text(NODE, encoding="utf-8")
    modules = directory / "node_modules"
    if not modules.exists():
        modules.symlink_to(os.environ["COPILOTD_NODE_MODULES"])
    env = {**os.environ, "PORT": str(port)}
    with subprocess.Popen(["node", script.name], cwd=directory, env=env, stdout=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        try:
            assert process.stdout.readline() == "ready\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            guard.cancel()
            process.kill()


def minted_by_python(directory: pathlib.Path, user: str) -> str:
    (directory / "tokens.py").write_text(PYTHON, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "tokens.py", user], cwd=directory, capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()


def minted_by_node(url: str, user: str) -> str:
    answer = requests.get(f"{url}/copilot-token", headers={"cookie": f"user={user}"}, timeout=10)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    return answer.json()["token"]


def make_conversation(server: Server, token: str) -> dict:
    answer = requests.post(
        f"{server.url}/v1/conversations", json={}, headers={"authorization": f"Bearer {token}"}, timeout=30
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_the_page_s_programs_with_a_pem(keys):
    with serving(keys, blocks("tokens.md", "toml")[0]) as server, backend(keys) as url:
        assert make_conversation(server, minted_by_python(keys, "ada"))["user"] == "ada"
        assert make_conversation(server, minted_by_node(url, "bob"))["user"] == "bob"
        # Who is not logged in gets no token.
        assert requests.get(f"{url}/copilot-token", timeout=10).status_code == 401
    accepted = subprocess.run(
        [binary(), "token", "verify", "--config", "copilotd.toml"],
        cwd=keys,
        input=minted_by_python(keys, "ada"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert accepted.returncode == 0 and "sub: ada" in accepted.stdout, accepted.stdout
    assert "FAIL" not in accepted.stdout


def test_the_page_s_programs_with_a_jwks(keys):
    with backend(keys) as url:
        (jwk,) = requests.get(f"{url}/.well-known/jwks.json", timeout=10).json()["keys"]
        assert "d" not in jwk, "the private key is not published"
        issuer = f"""
[[tenants.issuers]]
iss = "https://acme.example"
alg = "EdDSA"
jwks_url = "{url}/.well-known/jwks.json"
"""
        with serving(keys, issuer) as server:
            assert make_conversation(server, minted_by_node(url, "bob"))["user"] == "bob"
            assert make_conversation(server, minted_by_python(keys, "ada"))["user"] == "ada"


def listed() -> dict[str, str]:
    """Returns the command of the page's table for each algorithm but EdDSA."""
    page = (PAGES / "tokens.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([A-Z]{2}256)` \|.*\| `(openssl [^`]*)` \|$", page, re.M))


@pytest.mark.parametrize("alg", ["ES256", "RS256", "HS256"])
def test_every_kind_of_key_that_the_page_lists(alg, tmp_path):
    assert set(listed()) == {"ES256", "RS256", "HS256"}
    command = listed()[alg]
    if alg == "HS256":
        (secret,) = run_shell([command], tmp_path)
        key = secret.strip()
        material = f'secret = {{ value = "{key}" }}'
    else:
        public = "openssl pkey -in user-token.key -pubout -out user-token.pub"
        run_shell([f"{command} 2> openssl.txt\n{public}"], tmp_path)
        key = (tmp_path / "user-token.key").read_text(encoding="ascii")
        material = 'pem = { file = "user-token.pub" }'
    now = int(time.time())
    claims = {
        "iss": "https://acme.example",
        "aud": ["copilotd"],
        "sub": "ada",
        "tenant": "acme",
        "scope": "chat",
        "iat": now,
        "exp": now + 600,
    }
    issuer = f'[[tenants.issuers]]\niss = "https://acme.example"\nalg = "{alg}"\n{material}\n'
    with serving(tmp_path, issuer) as server:
        assert make_conversation(server, jwt.encode(claims, key, algorithm=alg))["user"] == "ada"


@pytest.mark.parametrize(("language", "grammar"), [("go", tree_sitter_go), ("java", tree_sitter_java)])
def test_the_other_programs_can_be_parsed(language, grammar):
    (program,) = blocks("tokens.md", language)
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    assert not parser.parse(program.encode()).root_node.has_error
    # The parser is no formality: a lost brace is noticed.
    assert parser.parse(program.rstrip().removesuffix("}").encode()).root_node.has_error


def test_the_claims_of_the_programs_are_those_of_the_table(keys):
    page = (PAGES / "tokens.md").read_text(encoding="utf-8")
    required = set(re.findall(r"^\| `([a-z]+)` \| (?:yes|in effect|recommended) \|", page, re.M))
    assert required == {"iss", "aud", "sub", "tenant", "exp", "scope", "iat", "jti"}
    with backend(keys) as url:
        for token in (minted_by_python(keys, "ada"), minted_by_node(url, "ada")):
            assert set(jwt.decode(token, options={"verify_signature": False})) == required
            assert jwt.get_unverified_header(token)["kid"] == "2026-11"
