"""`textgym label`: questions from policies, then the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textgym.errors import ConfigError, FeedbackError
from textgym.feedback.asking import questions_from_policies
from textgym.feedback.records import PAIRWISE
from textgym.feedback.store import FeedbackStore

if TYPE_CHECKING:
    from textgym.models.policy import Policy
    from textgym.tasks.base import Task


def run_label(
    task: str | Task | None = None,
    policies: Sequence[str | Path | Policy] = (),
    store: str | Path = "feedback.db",
    batch: str = "default",
    kind: str = PAIRWISE,
    annotators: Sequence[str] = ("me",),
    prompts: int = 20,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    group: str = "",
    split: str = "train",
    reveal: bool = False,
    open_browser: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Asks people in a browser, until Ctrl-C.

    A batch that already holds questions is served as it is, so that the same command goes on after
    a restart; policies are sampled for an empty one only.

    Args:
        task: where the prompts come from; None for a batch that holds questions.
        policies: who completes them; none for a batch that holds questions.
        store: an SQLite file or an SQLAlchemy URL.
        batch: names the questions in the store.
        kind: "pairwise", "rating" or "binary".
        annotators: who labels, each by a link of one's own.
        prompts: how many prompts.
        seed: the prompts and the samples follow from it.
        host: the address to listen at.
        port: the port; 0 for any that is free.
        group: which group the annotators belong to; "" keeps the group of known ones.
        split: which of the task's splits.
        reveal: whether the page names the policies.
        open_browser: whether to open the first annotator's page here.
        say: takes each line.

    Raises:
        ConfigError: an empty batch without a task or policies, Starlette or uvicorn not installed,
            and what `LabelServer` and `questions_from_policies` raise it for.
        FeedbackError: no two policies differ anywhere, or an annotator is of another group.
        StoreError: the store cannot be used.
    """
    try:
        from textgym.feedback.page.server import serve
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ConfigError("the page needs Starlette: pip install 'textgym[label]'") from error
    with FeedbackStore(store) as opened:
        if held := len(opened.questions(batch)):
            say(f"batch {batch!r} holds {held} questions; another batch asks new ones")
        elif task is None or not policies:
            raise ConfigError(f"batch {batch!r} is empty; a task and policies would fill it")
        else:
            say(f"sampling {prompts} prompts' completions")
            asked = questions_from_policies(task, policies, prompts, kind, seed, split)
            if not asked:
                raise FeedbackError(
                    "the policies' completions are equal everywhere: nothing to ask"
                )
            say(f"batch {batch!r} asks {opened.ask(asked, batch)} {kind} questions")
    serve(
        store,
        batch,
        annotators,
        group=group,
        host=host,
        port=port,
        reveal=reveal,
        open_browser=open_browser,
        say=say,
    )
