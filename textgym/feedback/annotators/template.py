"""What a judge is asked: a template in a file, and the two verdicts it is to choose between."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from textgym.errors import FeedbackError
from textgym.feedback.records import Question
from textgym.registry import unknown_name

FIELDS = ("prompt", "first", "second")
VERDICTS = ("first", "second")


@dataclass(frozen=True)
class JudgeTemplate:
    """The text that is put before a judge, in the syntax of `string.Template`.

    Attributes:
        text: holds $prompt, $first and $second, and no other field; a dollar sign is $$.
        first: what follows the text where the judge prefers the completion shown first.
        second: likewise the one shown second.

    Raises:
        FeedbackError: on construction, for a field that is missing or unknown, a lone dollar
            sign, or verdicts that are empty or equal.
    """

    text: str
    first: str = " A"
    second: str = " B"

    def __post_init__(self) -> None:
        template = Template(self.text)
        if not template.is_valid():
            raise FeedbackError("the judge's template holds a lone $; a dollar sign is written $$")
        there = template.get_identifiers()
        if missing := [name for name in FIELDS if name not in there]:
            raise FeedbackError(
                f"the judge's template lacks {', '.join('$' + name for name in missing)}"
            )
        if unknown := sorted(set(there) - set(FIELDS)):
            name = unknown_name("field of the judge's template", unknown[0], FIELDS)
            raise FeedbackError(str(name))
        if not self.first or not self.second or self.first == self.second:
            raise FeedbackError(
                f"the two verdicts must differ, got {self.first!r} and {self.second!r}"
            )

    def fill(self, question: Question, order: tuple[int, ...] = (0, 1)) -> str:
        """Returns the text with a pair's completions shown in an order, no spaces around them."""
        first, second = (question.completions[place].strip() for place in order)
        return Template(self.text).substitute(
            prompt=question.prompt.strip(), first=first, second=second
        )


def read_template(path: str | Path | None = None) -> JudgeTemplate:
    """Reads a template; line breaks at its end are dropped, so that the verdict follows the text.

    The file may open with one line of JSON that names the verdicts, such as
    `{"first": " A", "second": " B"}`.

    Args:
        path: of the file; None for the one that ships with the package.

    Raises:
        FeedbackError: a file that cannot be read, a first line that names other things than the
            two verdicts, or a template that `JudgeTemplate` refuses.
    """
    default = resources.files("textgym.feedback.annotators").joinpath("judge_template.txt")
    where = Path(str(default) if path is None else path)
    try:
        text = where.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise FeedbackError(f"the judge's template {where} cannot be read: {cause}") from error
    verdicts: dict[str, str] = {}
    if text.startswith("{"):
        header, _, text = text.partition("\n")
        verdicts = _read_verdicts(header)
    return JudgeTemplate(text.rstrip("\n"), **verdicts)


def _read_verdicts(header: str) -> dict[str, str]:
    try:
        verdicts = json.loads(header)
    except ValueError:
        verdicts = None
    named = isinstance(verdicts, dict) and set(verdicts) == set(VERDICTS)
    if not named or not all(isinstance(verdict, str) for verdict in verdicts.values()):
        raise FeedbackError(
            f"the first line of the judge's template must name the verdicts as JSON, such as "
            f'{{"first": " A", "second": " B"}}; got {header[:60]!r}'
        )
    return dict(verdicts)
