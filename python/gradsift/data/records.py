"""From one row of any accepted shape to the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, str]

ROLES = ("system", "user", "assistant", "tool")
SHAPES = "messages, conversations, prompt + completion, or instruction + output"

# ShareGPT's words and the shorter forms that its copies use.
_FROM_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}


class RowError(Exception):
    """A row cannot be used. `kind` is one word to count by, the message is the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def messages_of(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The chat that `row` holds, each message as ``{"role": …, "content": …}``.

    The first of these shapes whose columns are there and not null is taken:

    - ``messages``: a list of ``{"role", "content"}``; roles system, user, assistant, tool
    - ``conversations``: a list of ``{"from", "value"}`` (human, gpt, system, tool)
    - ``prompt`` and ``completion``: two strings, or lists of messages
    - ``instruction``, ``output`` and perhaps ``input``: the input stands below the instruction, a blank line between

    Raises
    ------
    RowError
        No such columns, or a message that is not of that form, or an empty user turn, or no assistant turn with text.
    """

    def has(*columns: str) -> bool:
        return all(row.get(column) is not None for column in columns)

    if has("messages"):
        messages = _chat(row["messages"], "messages")
    elif has("conversations"):
        messages = _sharegpt(row["conversations"])
    elif has("prompt", "completion"):
        messages = [*_side(row, "prompt", "user"), *_side(row, "completion", "assistant")]
    elif has("instruction", "output"):
        question = _text(row["instruction"], "instruction")
        extra = _text(row["input"], "input") if has("input") else ""
        if extra.strip():
            question = f"{question}\n\n{extra}"
        messages = [_message("user", question), _message("assistant", _text(row["output"], "output"))]
    else:
        columns = ", ".join(str(column) for column in row) or "none"
        raise RowError("shape", f"columns: expected {SHAPES}, got {columns}")
    _check_turns(messages)
    return tuple(messages)


def _check_turns(messages: Sequence[Message]) -> None:
    for i, message in enumerate(messages):
        if message["role"] == "user" and not message["content"].strip():
            raise RowError("empty", f"message {i}: expected a user turn with text, got an empty one")
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    if not replies:
        raise RowError("no_assistant", "messages: expected at least one assistant turn, got none")
    if not any(reply.strip() for reply in replies):
        raise RowError("empty", "messages: expected an assistant turn with text, got only empty ones")


def _side(row: Mapping[str, Any], column: str, role: str) -> list[Message]:
    value = row[column]
    return [_message(role, value)] if isinstance(value, str) else _chat(value, column)


def _sharegpt(value: Any) -> list[Message]:
    messages = []
    for i, turn in enumerate(_list(value, "conversations")):
        if "from" not in turn and "role" in turn:
            raise RowError("shape", f'conversations[{i}]: expected "from" and "value", got "role"; call it "messages"')
        speaker = turn.get("from")
        if speaker not in _FROM_ROLES:
            raise RowError(
                "role", f'conversations[{i}]["from"]: expected one of {", ".join(_FROM_ROLES)}, got {speaker!r}'
            )
        messages.append(_message(_FROM_ROLES[speaker], _text(turn.get("value"), f'conversations[{i}]["value"]')))
    return messages


def _chat(value: Any, column: str) -> list[Message]:
    messages = []
    for i, turn in enumerate(_list(value, column)):
        role = turn.get("role")
        if role not in ROLES:
            raise RowError("role", f'{column}[{i}]["role"]: expected one of {", ".join(ROLES)}, got {role!r}')
        for key in ("tool_calls", "function_call"):
            # Leaving the call out would train on a reply that was never given.
            if turn.get(key):
                raise RowError(
                    "shape", f'{column}[{i}]: expected text only, got "{key}"; write the call into "content"'
                )
        messages.append(_message(role, _text(turn.get("content"), f'{column}[{i}]["content"]')))
    return messages


def _list(value: Any, column: str) -> list[Mapping[str, Any]]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise RowError("shape", f"{column}: expected a list of messages, got {type(value).__name__}")
    if not value:
        raise RowError("empty", f"{column}: expected at least one message, got an empty list")
    for i, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise RowError("shape", f"{column}[{i}]: expected an object, got {type(turn).__name__}")
    return list(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        got = "nothing" if value is None else type(value).__name__
        raise RowError("shape", f"{where}: expected a string, got {got}")
    return value


def _message(role: str, content: str) -> Message:
    # JSON can spell half of a surrogate pair; no tokenizer and no file takes it.
    if not is_unicode(content):
        raise RowError("encoding", f"{role} turn: expected Unicode text, got a lone surrogate")
    return {"role": role, "content": content}


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8, which a lone surrogate cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
