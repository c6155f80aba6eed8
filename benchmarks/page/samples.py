"""The samples that the page shows: the same prompts answered by every agent, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from textgym.benchmarks.cell import OWN_MODEL
from textgym.benchmarks.page.data import Progress, Results, Run, plain
from textgym.benchmarks.suite import Spec
from textgym.benchmarks.workbench import Workbench
from textgym.errors import TextGymError
from textgym.models.tokenize import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = ("reward", "gold", "toxicity", "length", "mode")
"""What stands above a response, where the task has it."""
UNFINISHED = "\ufffd"
"""What a token decodes to that holds a part of a character."""


class Pieces:
    """Token ids to texts that join to the response, each text kept once.

    Attributes:
        texts: the distinct pieces; responses hold places in this list.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def split(self, ids: list[int], response: str) -> list[int] | None:
        """Returns the places of a response's pieces, a piece per token.

        None where the tokens do not spell the response: they are another tokenizer's.
        """
        if self.tokenizer.decode(ids, skip_special_tokens=True) != response:
            return None
        pieces, said = [], ""
        for end in range(1, len(ids) + 1):
            text = self.tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
            # A character may take several tokens: the last of them shows it.
            piece = "" if text.endswith(UNFINISHED) and end < len(ids) else text[len(said) :]
            said += piece
            pieces.append(self._place(piece))
        return pieces

    def _place(self, piece: str) -> int:
        if piece not in self._places:
            self._places[piece] = len(self.texts)
            self.texts.append(piece)
        return self._places[piece]


def sample_data(
    results: Results, prompts: int, samples: int, progress: Progress
) -> list[dict[str, Any]]:
    """Returns, for each task with samples, what the browser of samples shows.

    Args:
        results: the folder.
        prompts: prompts shown of each task, of its first seed.
        samples: responses of each agent to a prompt.
        progress: hears each task.
    """
    shown = []
    for task in results.tasks:
        progress(f"samples: {task}")
        shown.append(_task(results, task, prompts, samples))
    return shown


def _task(results: Results, task: str, prompts: int, samples: int) -> dict[str, Any]:
    runs = results.of(task)
    seed = min((run.seed for run in runs), default=0)
    found = {run.agent: run.table("samples") for run in runs if run.seed == seed}
    tables = {agent: table for agent, table in found.items() if table is not None}
    if not tables:
        return {"task": task, "note": "This folder keeps no samples of this task."}
    asked = max(tables.values(), key=lambda table: table["prompt_index"].nunique())
    chosen = asked.drop_duplicates("prompt_index").head(prompts)
    places = list(zip(chosen["prompt_index"], chosen["prompt"], strict=True))
    pieces, note = _pieces(results, next(run for run in runs if run.agent in tables))
    missing = [agent for agent in found if agent not in tables]
    every = asked["prompt_index"].nunique()
    size = f"Seed {seed}, {len(places)} of {every} prompts, up to {samples} responses each."
    notes = [size, note]
    notes += [f"No samples were kept of {', '.join(missing)}."] if missing else []
    agents = {
        agent: [_answers(table, place, samples, pieces) for place in places]
        for agent, table in tables.items()
    }
    return {
        "task": task,
        "note": " ".join(filter(None, notes)),
        "prompts": chosen["prompt"].tolist(),
        "pieces": pieces.texts if pieces else [],
        "agents": agents,
    }


def _answers(
    table: pd.DataFrame, place: tuple[int, str], samples: int, pieces: Pieces | None
) -> list[dict[str, Any]]:
    """Returns the first responses to a prompt; none where the agent was asked another one."""
    index, prompt = place
    rows = table[(table["prompt_index"] == index) & (table["prompt"] == prompt)].head(samples)
    return [_answer(row, pieces) for row in rows.to_dict("records")]


def _answer(row: Any, pieces: Pieces | None) -> dict[str, Any]:
    """Returns one response: its text or its tokens, and the numbers of both."""
    answer: dict[str, Any] = {
        name: plain(row[name]) for name in SHOWN if name in row and not pd.isna(row[name])
    }
    ids = row.get("response_ids")
    tokens = None
    if pieces is not None and ids is not None:
        tokens = pieces.split([int(token) for token in ids], row["response"])
    if tokens is None:
        return {**answer, "text": row["response"]}
    answer["tokens"] = tokens
    for name, column in (("policy", "policy_logprobs"), ("reference", "reference_logprobs")):
        values = row.get(column)
        if isinstance(values, float) or values is None or len(values) != len(tokens):
            continue
        answer[name] = [round(float(value), 2) for value in values]
    return answer


def _pieces(results: Results, run: Run) -> tuple[Pieces | None, str]:
    """Returns what splits the task's responses, or None and why there is nothing."""
    try:
        return Pieces(_tokenizer(results, run)), ""
    except (TextGymError, OSError, KeyError, ValueError) as error:
        return None, f"Texts are shown whole, since no tokenizer was found: {error}."


def _tokenizer(results: Results, run: Run) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of the model that the run's agent started from, off the network."""
    config = run.result["config"]
    model = config["model"]
    if model == OWN_MODEL:
        spec = Spec(config["task"]["name"], config["task"]["options"])
        task = Workbench(results.out).task(spec, model)
        own = task.tokenizer()
        if own is not None:
            return own
        model = str(task.language_model())
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        resolve(model), local_files_only=True, trust_remote_code=False
    )
    return tokenizer
