"""MyTask: does a policy learn to answer without repeating a word?

Run it:    textgym bench --tasks ./my_task.py:MyTask --agents reference,reinforce --budget 512
"""

from __future__ import annotations

from typing import Any, ClassVar

from datasets import Dataset

from textgym.tasks.base import Task, require_split

TOPICS = ("the garden", "an old bicycle", "the night train", "bread", "a lost key", "the harbour")
SPLITS = {"train": "Tell me about {}.", "validation": "Write on {}.", "test": "Describe {}."}
"""The splits ask differently, so that what is measured was not trained on."""


# The arguments of __init__ are options on the command line: ./my_task.py:MyTask@words=12
class MyTask(Task):
    """Asks about a topic and rewards the variety of words in the answer."""

    name: ClassVar[str] = "my_task"
    question: ClassVar[str] = "Does a policy learn to answer without repeating a word?"
    max_prompt_tokens = 40
    max_response_tokens = 24
    # Set it, and write `gold`, where there is a better judge than the reward that is trained on.
    has_gold = False

    def __init__(self, words: int = 20) -> None:
        self.words = words

    def prompts(self, split: str) -> Dataset:
        """Returns the rows to ask; `reward` gets every further column, here `topic`."""
        require_split(split)
        return Dataset.from_dict(
            {"prompt": [SPLITS[split].format(t) for t in TOPICS], "topic": list(TOPICS)}
        )

    def demonstrations(self) -> Dataset:
        """Returns what the reference is fine-tuned on before agents start from it."""
        return Dataset.from_dict(
            {
                "prompt": [SPLITS["train"].format(topic) for topic in TOPICS],
                "completion": [f" I know {topic} well, and so do you." for topic in TOPICS],
            }
        )

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the number of different words, at most `words`, as a share of `words`."""
        return [min(len(set(text.split())), self.words) / self.words for text in completions]
