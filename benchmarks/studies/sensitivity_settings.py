"""What the sensitivity study varies."""

from __future__ import annotations

TASKS = ("summarize", "toxicity")
SELECTS = "best of 8"
AGENTS = {SELECTS: "best of 8", "rloo": "rloo", "sft": "sft"}
"""What each is called in the suite `core`, whose settings are taken; the longest first."""

COMMON_LENGTH = 12
"""Tokens that every response is cut to for diversity: the shortest limit."""
LIMITS = (12, 16, 24, 32, 48, 64)
"""Tokens; a task's own limit is one of them, and the last that it is asked with."""
TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3)

LIMIT, TEMPERATURE, WORDING = "limit", "temperature", "wording"

AS_TRAINED = "as trained"
FRAMES = {
    AS_TRAINED: "{asks}: {text}\n{answers}:",
    "blank lines": "{asks}:\n\n{text}\n\n{answers}:",
    "one line": "{asks}: {text} {answers}:",
    "lower case": "{lower_asks}: {text}\n{lower_answers}:",
    "other labels": "{other_asks}: {text}\n{other_answers}:",
    "no first label": "{text}\n{answers}:",
}
"""Wordings around the same text; the labels are the task's."""

LABELS = {
    "summarize": ("Report", "Summary", "Story", "In short"),
    "toxicity": ("Remark", "Reply", "Post", "Answer"),
}
"""By task: what introduces the text and the response, and other words for the two."""


def reworded(prompt: str, task: str, frame: str) -> str:
    r"""Returns a task's prompt in another of `FRAMES`.

    >>> reworded("Remark: I saw the tram.\nReply:", "toxicity", "other labels")
    'Post: I saw the tram.\nAnswer:'

    Raises: ValueError for a prompt that is not as the task writes them.
    """
    asks, answers, other_asks, other_answers = LABELS[task]
    head, tail = f"{asks}: ", f"\n{answers}:"
    if not (prompt.startswith(head) and prompt.endswith(tail)):
        raise ValueError(f"no prompt of {task!r}: {prompt!r}")
    return FRAMES[frame].format(
        text=prompt.removeprefix(head).removesuffix(tail),
        asks=asks,
        answers=answers,
        lower_asks=asks.lower(),
        lower_answers=answers.lower(),
        other_asks=other_asks,
        other_answers=other_answers,
    )
