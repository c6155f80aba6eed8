"""A suite: a frozen product of tasks, agents and seeds, read from TOML or the command line."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from textgym.errors import ConfigError
from textgym.registry import unknown_name

Options = dict[str, Any]

PRECISIONS = ("auto", "float32", "bfloat16")
"""What `textgym.models.precision` knows, told here without importing torch."""


@dataclass(frozen=True)
class Spec:
    """A name in a registry, or `path/to/file.py:Object`, with the options to make it with.

    Attributes:
        name: the registry's name or the file and object.
        options: keyword options of the task, or fields of the agent's config.
        label: what tables and folders call it; by default the name and its options.
    """

    name: str
    options: Options = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", default_label(self.name, self.options))


@dataclass(frozen=True)
class Evaluation:
    """How every agent is measured; the same for all of them.

    Attributes:
        prompts: how many prompts of the split are asked; all of it when it has fewer.
        samples_per_prompt: K; None takes the task's own `eval_samples_per_prompt`.
        split: which split the prompts come from.
        frontier_samples: M, further samples of the reference for every prompt, from which the best
            reward that is reachable at each KL is estimated, up to log M nats; 0 leaves it out.
        checkpoint_prompts: how many of the prompts are asked while an agent trains, after 2, 4, 8,
            ... logged steps and at the end; 0 leaves checkpoints out.
        checkpoint_samples: samples per prompt at a checkpoint.
    """

    prompts: int = 64
    samples_per_prompt: int | None = None
    split: str = "test"
    frontier_samples: int = 64
    checkpoint_prompts: int = 0
    checkpoint_samples: int = 8

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ConfigError(f"evaluation prompts must be >= 1, got {self.prompts}")
        if self.samples_per_prompt is not None and self.samples_per_prompt < 1:
            raise ConfigError(f"samples_per_prompt must be >= 1, got {self.samples_per_prompt}")
        if self.frontier_samples < 0:
            raise ConfigError(f"frontier_samples must be >= 0, got {self.frontier_samples}")
        if self.checkpoint_prompts < 0:
            raise ConfigError(f"checkpoint_prompts must be >= 0, got {self.checkpoint_prompts}")
        if self.checkpoint_samples < 2:
            raise ConfigError(
                f"checkpoint_samples must be >= 2, a set of one has no diversity; "
                f"got {self.checkpoint_samples}"
            )


@dataclass(frozen=True)
class Suite:
    """A named product of tasks x agents x seeds.

    Attributes:
        name: the suite's name.
        description: what it is for, one sentence.
        model: the pretrained language model every cell starts from: a name, folder or Hub id.
        reference: what KL and diversity loss are measured against and training starts from:
            `sft` fine-tunes the model on the task's demonstrations once; `pretrained` takes the
            model as it is.
        precision: what matrix products are computed in, in sampling, training and scoring: `auto`
            (what the machine does fast at the model's width; float32 below a width of 128),
            `float32` or `bfloat16`. A result says what it came to.
        budget: completions an agent may sample and score while training.
        seeds: one training run per seed.
        tasks, agents: what is crossed.
        evaluation: how agents are measured.
        sft: options of the `sft` agent that makes the reference.
        lora: train adapters of this rank on frozen weights (`textgym.models.lora`), which policy
            and reference then share; None trains every weight. The `sft` reference is made so too.
        search: by agent label, the options that `textgym tune` varies, see
            `textgym.benchmarks.tuning`.
        parts: suites that this one stands for; it then has nothing else but a description.
    """

    name: str
    tasks: tuple[Spec, ...]
    agents: tuple[Spec, ...]
    description: str = ""
    model: str = "tiny"
    reference: str = "sft"
    precision: str = "auto"
    budget: int = 4096
    seeds: tuple[int, ...] = (0,)
    evaluation: Evaluation = field(default_factory=Evaluation)
    sft: Options = field(default_factory=dict)
    lora: int | None = None
    search: dict[str, Options] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.parts:
            if self.tasks or self.agents:
                raise ConfigError(f"suite {self.name!r} has parts, and so no tasks or agents")
            return
        if self.reference not in ("sft", "pretrained"):
            raise ConfigError(f"reference must be 'sft' or 'pretrained', got {self.reference!r}")
        if self.precision not in PRECISIONS:
            raise ConfigError(str(unknown_name("precision", str(self.precision), PRECISIONS)))
        whole = isinstance(self.lora, int) and not isinstance(self.lora, bool)
        if self.lora is not None and not (whole and self.lora >= 1):
            raise ConfigError(f"lora must be a rank >= 1, got {self.lora!r}")
        if self.budget < 0:
            raise ConfigError(f"budget must be >= 0 completions, got {self.budget}")
        for what in ("tasks", "agents", "seeds"):
            if not getattr(self, what):
                raise ConfigError(f"suite {self.name!r} has no {what}")
        if any(seed < 0 for seed in self.seeds):
            raise ConfigError(f"seeds must be >= 0, got {list(self.seeds)}")
        for what, specs in (("task", self.tasks), ("agent", self.agents)):
            labels = [folder_name(spec.label) for spec in specs]
            twice = next((label for label in labels if labels.count(label) > 1), None)
            if twice is not None:
                raise ConfigError(f"two {what}s are called {twice!r}; give one a label")

    def replace(self, **changes: Any) -> Suite:
        """Returns the suite with the given fields changed; a None changes nothing."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})


def folder_name(label: str) -> str:
    """Returns a label as a folder's name.

    >>> folder_name("my agent@lr=1e-3")
    'my_agent@lr=1e-3'
    """
    return re.sub(r"[^\w@=.,+-]", "_", label)


def default_label(name: str, options: Options) -> str:
    """Returns the name (a file's object for a file) and its options.

    >>> default_label("agents/mine.py:Mine", {"lr": 0.5, "n": 4})
    'Mine@lr=0.5,n=4'
    >>> default_label("trl:grpo", {})
    'trl:grpo'
    """
    short = name.rpartition(":")[2] if ".py:" in name else name
    if not options:
        return short
    return f"{short}@{','.join(f'{key}={value}' for key, value in options.items())}"


def parse_value(text: str) -> Any:
    """Returns a command-line value: a number, a truth value, nothing, or the text itself.

    >>> parse_value("1e-3"), parse_value("true"), parse_value("none"), parse_value("batch")
    (0.001, True, None, 'batch')
    """
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        with suppress(ValueError):
            value = number(text)
            return value if math.isfinite(value) else text
    return text


def parse_spec(text: str) -> Spec:
    """Returns the spec that `name` or `name@option=value,option=value` stands for.

    >>> parse_spec("best_of_n@n=16").options
    {'n': 16}
    """
    name, _, rest = text.partition("@")
    options: Options = {}
    for pair in rest.split(",") if rest else []:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{text!r}: expected name@option=value,..., got {pair!r}")
        options[key.strip()] = parse_value(value.strip())
    if not name:
        raise ConfigError(f"{text!r} names nothing")
    return Spec(name.strip(), options)


def split_specs(text: str, labels: Collection[str] = ()) -> list[str]:
    """Returns the specs of a comma-separated list, whose options may hold commas too.

    Args:
        text: the list.
        labels: names that may hold commas and are kept whole.

    >>> split_specs("ppo@lr=1e-3,epochs=2,best_of_n@n=16,sft")
    ['ppo@lr=1e-3,epochs=2', 'best_of_n@n=16', 'sft']
    >>> split_specs("sft, cold,ppo", labels=["sft, cold"])
    ['sft, cold', 'ppo']
    """
    specs: list[str] = []
    parts = [part.strip() for part in text.split(",") if part.strip()]
    while parts:
        joined = [", ".join(parts[:n]) for n in range(len(parts), 0, -1)]
        label = next((name for name in joined if name in labels), None)
        if label is not None:
            specs.append(label)
            del parts[: label.count(", ") + 1]
            continue
        part = parts.pop(0)
        option = "=" in part and "@" not in part
        if option and specs and "@" in specs[-1]:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    return specs


def choose(text: str, known: tuple[Spec, ...]) -> tuple[Spec, ...]:
    """Returns the specs of a comma-separated list; a label of the suite keeps its options.

    >>> choose("ppo", (Spec("ppo", {"lr": 0.1}, label="ppo"),))[0].options
    {'lr': 0.1}
    """
    by_label = {spec.label: spec for spec in known}
    return tuple(by_label.get(part) or parse_spec(part) for part in split_specs(text, by_label))


def with_data(tasks: tuple[Spec, ...], data: list[str]) -> tuple[Spec, ...]:
    """Returns the tasks with their `data` option set.

    Args:
        tasks: the chosen tasks.
        data: `TASK=SOURCE` each, or one `SOURCE` for all; a source is a Hub id or a folder.

    Raises:
        ConfigError: two sources for one task.
        UnknownNameError: a task that is not chosen.
    """
    chosen = list(tasks)
    given: set[int] = set()
    for text in data:
        name, equals, source = text.partition("=")
        if not equals or "/" in name:  # a path may hold an equals sign
            name, source = "", text
        short = [default_label(task.name, {}) for task in tasks]
        targets = [i for i, t in enumerate(tasks) if name in ("", t.label, t.name, short[i])]
        if not targets:
            raise unknown_name("task in --data", name, short)
        for i in targets:
            if i in given:
                raise ConfigError(f"--data names two sources for {tasks[i].label!r}")
            given.add(i)
            options = {**tasks[i].options, "data": source}
            chosen[i] = dataclasses.replace(tasks[i], options=options)
    return tuple(chosen)


def configure(
    name: str,
    *,
    tasks: str | None = None,
    agents: str | None = None,
    seeds: str | None = None,
    model: str | None = None,
    precision: str | None = None,
    lora: int | None = None,
    data: list[str] | None = None,
    budget: int | None = None,
    prompts: int | None = None,
    samples_per_prompt: int | None = None,
) -> Suite:
    """Returns the named suite with what the command line says otherwise; None changes nothing.

    Raises:
        UnknownNameError: no such suite, or no such task in `data`.
        ConfigError: a value outside its domain.
    """
    suite = load_suite(name)
    try:
        numbers = tuple(int(seed) for seed in seeds.split(",")) if seeds is not None else None
    except ValueError:
        raise ConfigError(f"seeds must be whole numbers like 0,1,2; got {seeds!r}") from None
    evaluation = dataclasses.replace(
        suite.evaluation,
        prompts=suite.evaluation.prompts if prompts is None else prompts,
        samples_per_prompt=samples_per_prompt or suite.evaluation.samples_per_prompt,
    )
    suite = suite.replace(
        tasks=choose(tasks, suite.tasks) if tasks is not None else None,
        agents=choose(agents, suite.agents) if agents is not None else None,
        seeds=numbers,
        model=model,
        precision=precision,
        lora=lora,
        budget=budget,
        evaluation=evaluation,
    )
    return suite.replace(tasks=with_data(suite.tasks, data or []))


def part_names(name: str, tasks: str | None = None) -> dict[str, str]:
    """Returns the suites that a suite stands for: itself, or its parts by the folder of each.

    >>> part_names("algorithms")
    {'core': 'core', 'oracle': 'algorithms-oracle'}

    Raises:
        UnknownNameError: no such suite.
        ConfigError: tasks are chosen of a suite of several parts.
    """
    parts = load_suite(name).parts
    if not parts:
        return {"": name}
    if tasks is not None:
        raise ConfigError(f"suite {name!r} has parts: choose tasks of {' or '.join(parts)}")
    return {part.removeprefix(f"{name}-"): part for part in parts}


def suite_names() -> list[str]:
    """Returns the names of the suites that come with the package."""
    folder = resources.files("textgym.benchmarks.suites")
    files = (Path(file.name) for file in folder.iterdir())
    return sorted(file.stem for file in files if file.suffix == ".toml")


def load_suite(name: str) -> Suite:
    """Returns the suite of that name, or the one in that `.toml` file.

    Raises:
        UnknownNameError: no such suite.
        ConfigError: the file is not a suite.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"no suite file {name!r}")
        return parse_suite(path.stem, path.read_text("utf-8"))
    if name not in suite_names():
        raise unknown_name("suite", name, suite_names())
    folder = resources.files("textgym.benchmarks.suites")
    return parse_suite(name, (folder / f"{name}.toml").read_text("utf-8"))


def parse_suite(name: str, text: str) -> Suite:
    """Returns the suite written in TOML. Raises: ConfigError for an unknown or missing key."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"suite {name!r} is not TOML: {error}") from error
    _check_keys(name, table, Suite)
    for what in ("tasks", "agents"):
        table[what] = tuple(_spec(name, row) for row in table.get(what, ()))
    _check_keys(name, table.get("evaluation", {}), Evaluation)
    table["evaluation"] = Evaluation(**table.get("evaluation", {}))
    table["seeds"] = tuple(table.get("seeds", (0,)))
    table["parts"] = tuple(table.get("parts", ()))
    return Suite(**{"name": name, **table})


def _spec(suite: str, row: dict[str, Any] | str) -> Spec:
    if isinstance(row, str):
        return parse_spec(row)
    _check_keys(suite, row, Spec)
    if "name" not in row:
        raise ConfigError(f"suite {suite!r}: a task or agent without a name: {row}")
    return Spec(**row)


def _check_keys(suite: str, table: dict[str, Any], record: type[Any]) -> None:
    known = [f.name for f in fields(record)]
    for key in table:
        if key not in known:
            raise ConfigError(f"suite {suite!r}: {unknown_name('key', key, known)}")
