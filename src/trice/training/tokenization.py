"""Token ids of training examples, from records, conversations, or a template's prompts and responses.

Every token that the model writes carries loss, its end tokens included; prompts and tool results carry none. This
module does not truncate: `drop_long` leaves out examples that are too long, with a notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trice.errors import InputError
from trice.formats.chat import ChatFormat, ToolSchema, chat_format
from trice.formats.prompt import Template
from trice.messages import Message, read_messages, read_tools
from trice.progress import notice
from trice.training.packing import ResponseTokens, TokenizedExample

VERBATIM = Template(name="verbatim", prompt_input="{instruction}", prompt_no_input="{instruction}")


def tokenize(
    rows: Iterable[TokenizedExample | Mapping[str, Any]], tokenizer: Any = None
) -> list[TokenizedExample]:
    """Tokenize the records among `rows`; tokenized examples stay as they are. Raises InputError as
    `tokenize_record` does, and if there is a record but no tokenizer."""
    found, format = [], None
    for row in rows:
        if not isinstance(row, TokenizedExample):
            if tokenizer is None:
                raise InputError("training records need a tokenizer; give it as an argument")
            if "messages" in row and format is None:
                format = chat_format(tokenizer)
            row = tokenize_record(tokenizer, row, format)
        found.append(row)
    return found


def tokenize_record(
    tokenizer: Any, record: Mapping[str, Any], format: ChatFormat | None = None
) -> TokenizedExample:
    """Tokenize a record of strings, or a conversation.

    Args:
        tokenizer: A tokenizer of transformers.
        record: `prompt` and `response` (stage 1), `prompt`, `responses` and `rewards` (stage 2), or `messages` and
            optionally `tools` in the form of the OpenAI API (stage 1).
        format: The tokenizer's chat format, if there is one already.

    Raises:
        InputError: If the record has other fields, or not one reward for each response.

    Example:
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained("folder")                              # doctest: +SKIP
        >>> tokenize_record(tokenizer, {"prompt": "What is 6 * 7?", "response": " 42"})      # doctest: +SKIP
    """
    if "messages" in record:
        try:
            messages, tools = read_messages(record["messages"]), read_tools(record.get("tools") or [])
        except ValueError as error:
            raise InputError(f"training record: {error}") from None
        return tokenize_conversation(format or chat_format(tokenizer), messages, tools)
    if "prompt" in record and "response" in record:
        responses, rewards = [record["response"]], [0.0]
    elif {"prompt", "responses", "rewards"} <= set(record):
        responses, rewards = list(record["responses"]), [float(reward) for reward in record["rewards"]]
    else:
        raise InputError(
            f"training record with the fields {', '.join(map(str, record))}: expected 'messages', 'prompt' with "
            "'response', or 'prompt' with 'responses' and 'rewards'"
        )
    if not responses or len(responses) != len(rewards):
        raise InputError(
            f"training record: {len(responses)} responses and {len(rewards)} rewards; expected one reward for each "
            "of one or more responses"
        )
    return tokenize_example(VERBATIM, tokenizer, record["prompt"], "", responses, rewards)


def tokenize_conversation(
    format: ChatFormat, messages: Sequence[Message], tools: Sequence[ToolSchema] = (), prompt: int = 0
) -> TokenizedExample:
    """Tokenize a conversation. All assistant messages after the first `prompt` messages carry loss, the others and the
    template's text around them do not. Raises InputError if there is no such message, or the template cannot express
    the conversation."""
    ids, loss = format.render(messages, tools)
    if any(message.role == "assistant" for message in messages[:prompt]):
        given = sum(format.render(messages[:prompt], tools).loss)
        marked = [place for place, mark in enumerate(loss) if mark]
        for place in marked[:given]:
            loss[place] = False
    if not any(loss):
        raise InputError("the conversation has no assistant message, so that there is nothing to learn")
    start, end = loss.index(True), len(loss) - loss[::-1].index(True)
    return TokenizedExample(ids[:start], [ResponseTokens(ids[start:end], loss[start:end])], [0.0])


def tokenize_example(
    template: Template,
    tokenizer: Any,
    instruction: str,
    input: str,
    responses: Sequence[str],
    rewards: Sequence[float],
    sampled_ids: Sequence[Sequence[int] | None] | None = None,
    ends: Sequence[bool] | None = None,
) -> TokenizedExample:
    """Tokenize one question and its responses. `sampled_ids` are the ids in which a model wrote a response; they
    are used if this tokenizer decodes them to the response. `ends` says which responses get the end token, by default
    all."""
    prompt = template.encode(tokenizer, instruction, input)
    count = len(responses)
    encoded = [
        template.encode_response(tokenizer, response, tokens=ids, end=end)
        for response, ids, end in zip(
            responses, sampled_ids or [None] * count, ends or [True] * count, strict=True
        )
    ]
    return TokenizedExample(
        prompt, [ResponseTokens(ids, [True] * len(ids)) for ids in encoded], list(rewards)
    )


def longest_sequence(example: TokenizedExample) -> int:
    """The number of tokens of the prompt with the longest response."""
    return len(example.prompt) + max(len(response.ids) for response in example.responses)


def drop_long(examples: Sequence[TokenizedExample], max_length: int) -> list[TokenizedExample]:
    """The examples of at most `max_length` tokens; a notice says how many are left out.

    Raises InputError if none is short enough."""
    kept = [example for example in examples if longest_sequence(example) <= max_length]
    if len(kept) < len(examples):
        notice(
            f"left out {len(examples) - len(kept)} of {len(examples)} questions longer than {max_length} tokens"
        )
    if not kept:
        raise InputError(f"max_length {max_length}: every question is longer; choose a larger max_length")
    return kept
