"""Asks the copilot one question, prints the answer as it is written, and lets you decide on its tool calls.

    COPILOTD_URL=http://127.0.0.1:8080 COPILOTD_TOKEN=… python ask.py "Open a ticket: the printer is on fire"

COPILOTD_TOKEN is a user token, or an API key with scope `chat`. `--yes` approves every call.
"""

import argparse
import os
import sys

from copilotd import Copilotd, CopilotdError, TurnHandle


def decide(turn: TurnHandle, call_id: str, is_approved: bool) -> None:
    if is_approved:
        turn.approve(call_id)
    else:
        turn.reject(call_id, reason="rejected at the terminal")


def is_wanted() -> bool:
    try:
        return input("Approve? [y/N] ").strip().lower() == "y"
    except EOFError:
        # Nobody is there to answer.
        return False


def ask(copilotd: Copilotd, question: str, yes: bool) -> None:
    conversation = copilotd.conversations.create(title=question[:80])
    turn = conversation.send(question)
    for event in turn.events():
        if event["type"] == "message.delta":
            print(event["text"], end="", flush=True)
        elif event["type"] == "message.reset":
            # The model was asked again: what it said before does not count.
            print("\n(starting over)")
        elif event["type"] == "message.completed":
            print()
        elif event["type"] == "approval.requested":
            print(f"[{event['name']} {event['arguments']}]")
            decide(turn, event["call_id"], yes or is_wanted())
        elif event["type"] == "tool.finished":
            print(f"[{event['status']}]")
    # Raises if the turn failed or was cancelled.
    turn.text()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("question")
    parser.add_argument("--yes", action="store_true", help="approve every tool call")
    arguments = parser.parse_args()
    try:
        url, token = os.environ["COPILOTD_URL"], os.environ["COPILOTD_TOKEN"]
    except KeyError as missing:
        print(f"error: set {missing.args[0]}", file=sys.stderr)
        return 2
    try:
        with Copilotd(url, token) as copilotd:
            ask(copilotd, arguments.question, arguments.yes)
    except CopilotdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
