"""A chat as the one text the model is trained on, and where in it the assistant speaks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

from gradsift.data.records import Message

Span: TypeAlias = tuple[int, int]

DEFAULT_TEMPLATE = "gradsift-default/1"
# The layout of open-instruct (arXiv 2306.04751), which LESS trains with.
DEFAULT_TEMPLATE_TEXT = "{bos}<|system|>\n…\n<|user|>\n…\n<|tool|>\n…\n<|assistant|>\n…{eos}\n"


class TemplateError(Exception):
    """A chat cannot be written in this template, or the assistant's part cannot be told apart; says what to do."""


class ChatTemplate:
    """Renders chats for one tokenizer and finds the characters that get labels.

    Labels stand on each assistant turn: its content and what the template puts right behind it to end the turn
    (``<|im_end|>``, ``</s>``…, without the white space after that), never the role header.

    Parameters
    ----------
    tokenizer : transformers tokenizer with offsets (``is_fast``)
    template : None, "gradsift-default/1" or str
        None takes the tokenizer's own chat template, or the default where it has none; any other text is a Jinja
        chat template.

    Attributes
    ----------
    name : {"tokenizer", "gradsift-default/1", "given"}
    digest : str
        BLAKE2b-128 of the template's text.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise TypeError(
                f"tokenizer: expected a fast tokenizer (one with a tokenizer.json), got {type(tokenizer).__name__},"
                " which does not say where its tokens stand in the text; load it with AutoTokenizer or convert it"
            )
        self._tokenizer = tokenizer
        if template is None and getattr(tokenizer, "chat_template", None):
            self.name, self._jinja = "tokenizer", str(tokenizer.get_chat_template())
        elif template is None or template == DEFAULT_TEMPLATE:
            self.name, self._jinja = DEFAULT_TEMPLATE, ""
        elif "{{" in template or "{%" in template:
            self.name, self._jinja = "given", template
        else:
            raise ValueError(
                f'template: expected None, "{DEFAULT_TEMPLATE}" or the text of a Jinja chat template, got {template!r}'
            )
        text = self._jinja or DEFAULT_TEMPLATE_TEXT
        self.digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if not self._jinja:
            if tokenizer.eos_token is None:
                raise ValueError(
                    f"tokenizer: expected an eos_token, which {DEFAULT_TEMPLATE} ends a turn with, got none"
                )
            # Jinja templates write the token that starts a text themselves; here it stands where the tokenizer has one.
            bos_id = tokenizer.bos_token_id
            starts_with_bos = bos_id is not None and tokenizer("a").input_ids[:1] == [bos_id]
            self._bos = tokenizer.bos_token if starts_with_bos else ""

    @property
    def marks_generation(self) -> bool:
        """Whether the template itself says, by ``{% generation %}``, what the assistant writes."""
        return "generation %}" in self._jinja or "generation -%}" in self._jinja

    def render(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text of the chat and the character ranges that get labels, in order.

        Raises
        ------
        TemplateError
            The template refuses the chat, or changes an assistant turn so that it is not found again.
        """
        if not self._jinja:
            return self._render_default(messages)
        return self._render_jinja(messages)

    def token_mask(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Token ids and 0/1 marks by the template's own ``{% generation %}`` blocks.

        Raises
        ------
        TemplateError
            The template refuses the chat.
        """
        encoded = self._apply(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return list(encoded["input_ids"]), list(encoded["assistant_masks"])

    def _render_default(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        text, spans = self._bos, []
        for message in messages:
            text += f"<|{message['role']}|>\n"
            start = len(text)
            text += message["content"]
            if message["role"] == "assistant":
                text += self._tokenizer.eos_token
                spans.append((start, len(text)))
            text += "\n"
        return text, spans

    def _render_jinja(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        # Rendering once more with the assistant's words replaced by a mark shows exactly what the template puts
        # around them. Unlike comparing a chat with its own beginnings, this also holds for templates that move the
        # system prompt to the last turn or write the last turn differently.
        text = self._apply(messages, tokenize=False)
        mark = _mark_not_in(messages)
        pieces = self._apply(_masked(messages, mark), tokenize=False).split(mark)
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        if len(pieces) != len(replies) + 1:
            raise TemplateError(
                f"expected each of the {len(replies)} assistant turns once in the rendered chat, got {len(pieces) - 1}"
            )
        end_of_turn = self._end_of_turn(messages, mark, pieces[-1])

        if not text.startswith(pieces[0]):
            raise TemplateError("expected a template that leaves the text around assistant turns alone")
        spans, position = [], len(pieces[0])
        for i, (reply, after) in enumerate(zip(replies, pieces[1:], strict=True)):
            last = i == len(replies) - 1
            for written in (reply, reply.strip(), reply.lstrip(), reply.rstrip()):
                end = position + len(written)
                rest = text[end:] if last else text[end : end + len(after)]
                if text.startswith(written, position) and rest == after:
                    break
            else:
                raise TemplateError(
                    f"expected assistant turn {i} as it stands in the chat, got it changed by the template"
                )
            if not after.startswith(end_of_turn):
                raise TemplateError(
                    f"expected {end_of_turn!r} after assistant turn {i}, as after the last, got {after[:20]!r}"
                )
            spans.append((position, end + len(end_of_turn)))
            position = end + len(after)
        return text, spans

    def _end_of_turn(self, messages: Sequence[Message], mark: str, tail: str) -> str:
        if messages[-1]["role"] != "assistant":
            last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
            tail = self._apply(_masked(messages[: last + 1], mark), tokenize=False).rpartition(mark)[2]
        # A template whose turns end in white space only has nothing else to learn the end from.
        return tail.rstrip() or tail

    def _apply(self, messages: Sequence[Message], **options: Any) -> Any:
        import jinja2

        try:
            return self._tokenizer.apply_chat_template(
                list(messages), chat_template=self._jinja, add_generation_prompt=False, **options
            )
        except jinja2.TemplateError as error:
            raise TemplateError(f"expected a chat that the template takes, got its refusal: {error}") from error


def _masked(messages: Sequence[Message], mark: str) -> list[Message]:
    return [{**m, "content": mark} if m["role"] == "assistant" else m for m in messages]


def _mark_not_in(messages: Sequence[Message]) -> str:
    # Letters only: no template trims, splits or escapes them.
    mark = "GRADSIFTMARK"
    while any(mark in message["content"] for message in messages):
        mark += "X"
    return mark
