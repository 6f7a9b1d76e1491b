"""Generates the client's types from the JSON Schemas in schemas/, the one source of the HTTP API.

    python generate.py            writes src/copilotd/schema.py
    python generate.py --check    fails if src/copilotd/schema.py is not what would be written

COPILOTD_SCHEMAS names the directory of the schemas where this package is not inside the repository.
"""

from __future__ import annotations

import json
import keyword
import os
import pathlib
import sys
import textwrap
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
SCHEMAS = pathlib.Path(os.environ.get("COPILOTD_SCHEMAS", HERE.parents[1] / "schemas"))
FILE = HERE / "src" / "copilotd" / "schema.py"

# The bodies that the client sends and receives, by the names they have in Python.
BODIES = {
    "citation": "Citation",
    "conversation": "Conversation",
    "conversation_page": "ConversationPage",
    "create_conversation": "CreateConversation",
    "decide_approval": "DecideApproval",
    "fact": "Fact",
    "fact_page": "FactPage",
    "file": "StoredFile",
    "give_feedback": "GiveFeedback",
    "message": "Message",
    "message_page": "MessagePage",
    "problem": "Problem",
    "stream_ticket": "StreamTicket",
    "submit_turn": "SubmitTurn",
    "tool_call": "ToolCall",
    "turn": "Turn",
    "update_conversation": "UpdateConversation",
    "update_fact": "UpdateFact",
    "usage": "Usage",
}
PRIMITIVES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
HEADER = '''"""Types of the HTTP API, generated from schemas/ by generate.py. Do not edit.

At run time all of them are plain dictionaries: fields that a newer server adds are kept.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict
'''


def pascal(name: str) -> str:
    return "".join(word[0].upper() + word[1:] for word in name.replace(".", "_").split("_"))


def literal(values: list[Any]) -> str:
    return f"Literal[{', '.join(json.dumps(value) for value in values)}]"


def variant(schema: dict[str, Any]) -> str:
    """Returns what tells an object from the others that may stand in its place: its `type`, if it has only one."""
    kind = schema.get("properties", {}).get("type", {})
    values = [kind["const"]] if "const" in kind else kind.get("enum", [])
    return pascal(values[0]) if len(values) == 1 else ""


def docstring(text: str, indent: str = "") -> str:
    raw = "r" if "\\" in text else ""
    if len(indent) + len(text) + len(raw) + 6 <= 120:
        return f'{indent}{raw}"""{text}"""\n'
    lines = textwrap.wrap(text, 120 - len(indent), break_long_words=False)
    return f'{indent}{raw}"""\n' + "".join(f"{indent}{line}\n" for line in lines) + f'{indent}"""\n'


class Generator:
    """Turns schemas into classes; those of nested objects come before the class that uses them."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.names: set[str] = set()

    def type_of(self, schema: dict[str, Any], name: str) -> str:
        """Returns the annotation of a value; objects get a class called `name`."""
        if "$ref" in schema:
            file = schema["$ref"].removesuffix(".json").split("/")[-1]
            if file not in BODIES:
                raise SystemExit(f"error: {schema['$ref']} is not among the bodies of {__file__}")
            return BODIES[file]
        for key in ("const", "enum"):
            if key in schema:
                return literal(schema[key] if key == "enum" else [schema[key]])
        if options := schema.get("anyOf") or schema.get("oneOf"):
            objects = [option for option in options if "properties" in option]
            parts = [self.type_of(option, name + (variant(option) if len(objects) > 1 else "")) for option in options]
            union = " | ".join(dict.fromkeys(parts))
            if len(objects) < 2:
                return union
            # The name stays when what had one form gets another.
            self.claim(name)
            self.blocks.append(f"{name} = {union}\n")
            return name
        kinds = schema.get("type")
        if isinstance(kinds, list):
            parts = [self.type_of({**schema, "type": kind}, name) for kind in kinds]
            return " | ".join(dict.fromkeys(parts))
        if kinds == "array":
            item = name[:-1] if name.endswith("s") and not name.endswith("ss") else f"{name}Item"
            return f"list[{self.type_of(schema['items'], item)}]" if "items" in schema else "list[Any]"
        if kinds == "object" and "properties" in schema:
            return self.define(schema, name)
        if kinds == "object":
            return "dict[str, Any]"
        return PRIMITIVES.get(kinds or "", "Any")

    def claim(self, name: str) -> None:
        if name in self.names:
            raise SystemExit(f"error: two types would be called {name}")
        self.names.add(name)

    def define(self, schema: dict[str, Any], name: str, first: str = "") -> str:
        """Writes the class of an object. `first` is what stands before its fields."""
        self.claim(name)
        required = set(schema.get("required", []))
        fields = {
            field: (self.type_of(member, name + pascal(field)), member.get("description", ""))
            for field, member in schema["properties"].items()
        }
        always = {field: value for field, value in fields.items() if field in required}
        maybe = {field: value for field, value in fields.items() if field not in required}
        doc = docstring(schema.get("description") or schema.get("title") or name, "    ")
        base = "TypedDict"
        # Names such as `from` can be keys, but not annotations.
        if words := {field: kind for field, (kind, _) in always.items() if keyword.iskeyword(field)}:
            base = f"_{name}Words"
            pairs = ", ".join(f"{json.dumps(field)}: {json.dumps(kind)}" for field, kind in words.items())
            self.blocks.append(f'{base} = TypedDict("{base}", {{{pairs}}})\n')
        if any(keyword.iskeyword(field) for field in maybe):
            raise SystemExit(f"error: an optional field of {name} is a keyword of Python")
        if maybe and (always or first):
            # Without `NotRequired`, which Python 3.10 does not have.
            self.blocks.append(f"class _{name}Required({base}):\n" + (first + self.fields(always) or "    pass\n"))
            base, first, always = f"_{name}Required", "", {}
        total = ", total=False" if maybe else ""
        body = f"{doc}\n{first}{self.fields({**always, **maybe})}".rstrip()
        self.blocks.append(f"class {name}({base}{total}):\n{body}\n")
        return name

    def fields(self, fields: dict[str, tuple[str, str]]) -> str:
        lines = []
        for field, (kind, description) in fields.items():
            if keyword.iskeyword(field):
                continue
            lines.append(f"    {field}: {kind}\n" + (docstring(description, "    ") if description else ""))
        return "".join(lines)


def read(path: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / path).read_text(encoding="utf-8"))
    return schema


def generate() -> str:
    generator = Generator()
    for file, name in BODIES.items():
        generator.define(read(f"api/{file}.json"), name)
    types = sorted(path.name.removesuffix(".json") for path in (SCHEMAS / "events").glob("*.json"))
    for kind in types:
        first = f"    type: Literal[{json.dumps(kind)}]\n    position: str\n" + docstring(
            "The reader's whole position: pass it as `after` to go on behind this event.", "    "
        )
        generator.define(read(f"events/{kind}.json"), f"{pascal(kind)}Event", first)
    codes = read("api/problem.json")["properties"]["code"]["enum"]
    generator.blocks.append(
        "ProblemCode = Literal[\n" + "".join(f"    {json.dumps(code)},\n" for code in sorted(codes)) + "]\n"
    )
    generator.blocks.append("Event = (\n    " + "\n    | ".join(f"{pascal(kind)}Event" for kind in types) + "\n)\n")
    return HEADER + "".join(f"\n\n{block}" for block in generator.blocks)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: generate.py [--check]", file=sys.stderr)
        return 2
    content = generate()
    if not arguments:
        FILE.write_text(content, encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != content:
        print(f"error: {FILE} is not what schemas/ says: run clients/python/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
