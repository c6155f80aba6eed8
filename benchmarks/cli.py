"""The command line. Heavy imports live inside the commands, so that `--help` is instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from textgym.benchmarks.feedback_cli import feedback_app, label, reward_app, study
from textgym.benchmarks.options import ONE_THREAD, Seed, Settings, Task, one_task, options
from textgym.benchmarks.plugin_cli import check_app, new_app
from textgym.benchmarks.results_cli import report, rescore
from textgym.errors import TextGymError

app = typer.Typer(
    name="textgym",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="TextGym: a gym and benchmark suite for RLHF.",
)

Data = Annotated[
    list[str] | None,
    typer.Option(help="Hub id or folder: SOURCE for every task, or TASK=SOURCE; may repeat."),
]
Prompts = Annotated[int, typer.Option(min=1, help="Prompts asked.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Samples per prompt; the task's own.")]
Split = Annotated[str, typer.Option(help="Which split the prompts come from.")]
Precision = Annotated[
    str | None,
    typer.Option(
        help="What matrix products are computed in: auto (what the machine does fast at the "
        "model's width), float32 or bfloat16."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes, as many as cores unless given. Each computes in one thread, so that "
        "numbers do not depend on it.",
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Who is told of training curves: tensorboard, wandb, trackio or none; may repeat. "
        "TensorBoard where it is installed."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; an error the user caused is one line on stderr and exit status 2."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        app(arguments)
    except TextGymError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None


_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Other libraries' bars and notices would tear ours. Worker processes inherit these."""


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(help="tasks, agents, envs, suites, ...")] = "",
    json_: Json = False,
) -> None:
    """List what can be named: tasks, agents, envs, suites, metrics, rewards."""
    from textgym.benchmarks.catalogue import catalogue, show

    show(catalogue(kind), as_json=json_)


@app.command()
def bench(
    suite: Annotated[str, typer.Option(help="A suite's name or TOML file.")] = "quick",
    tasks: Annotated[str | None, typer.Option(help="Tasks, comma-separated.")] = None,
    agents: Annotated[
        str | None,
        typer.Option(help="Agents, comma-separated: ppo,best_of_n@n=16,path/to/agent.py:MyAgent."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, comma-separated.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name, folder or Hub id.")] = None,
    precision: Precision = None,
    lora: Annotated[
        int | None,
        typer.Option(help="Train adapters of this rank on shared weights, not every weight."),
    ] = None,
    data: Data = None,
    budget: Annotated[int | None, typer.Option(help="Completions scored in training.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Prompts per evaluation.")] = None,
    samples: Samples = None,
    out: Annotated[Path | None, typer.Option(help="Results folder: results/SUITE.")] = None,
    jobs: Jobs = None,
    track: Track = None,
) -> None:
    """Train and judge agents on tasks, then print the leaderboard. Runs again where it stopped."""
    from textgym.benchmarks.suite import configure, part_names
    from textgym.benchmarks.tracking import choose_trackers

    trackers = choose_trackers(track)
    folder = out or Path("results") / Path(suite).stem
    suites = {
        folder / inside: configure(
            part,
            tasks=tasks,
            agents=agents,
            seeds=seeds,
            model=model,
            precision=precision,
            lora=lora,
            data=data or [],
            budget=budget,
            prompts=prompts,
            samples_per_prompt=samples,
        )
        for inside, part in part_names(suite, tasks).items()
    }
    os.environ.update(ONE_THREAD)  # before the libraries that read it are loaded
    from textgym.benchmarks.commands import bench_all

    raise typer.Exit(bench_all(suites, jobs, trackers))


@app.command()
def tune(
    suite: Annotated[str, typer.Option(help="A suite with search spaces.")],
    out: Annotated[Path, typer.Option(help="Folder for the trials and their table.")],
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of every agent, the first as it is.")
    ] = 8,
    tasks: Annotated[str | None, typer.Option(help="Tasks of the suite, comma-separated.")] = None,
    agents: Annotated[str | None, typer.Option(help="Agents of the suite, by label.")] = None,
    budget: Annotated[int | None, typer.Option(help="Completions scored in training.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Prompts per evaluation.")] = None,
    samples: Samples = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the trials, no seed of the suite.")
    ] = 1000,
    jobs: Jobs = None,
) -> None:
    """Search each agent's settings, with as many trials for every one. Goes on where it stopped."""
    os.environ.update(ONE_THREAD)
    from textgym.benchmarks.suite import configure
    from textgym.benchmarks.tuning import tune as run

    chosen = configure(
        suite,
        tasks=tasks,
        agents=agents,
        budget=budget,
        prompts=prompts,
        samples_per_prompt=samples,
    )
    raise typer.Exit(run(chosen, out, trials, seed, jobs))


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Results folder of a bench.")],
    write: Annotated[bool, typer.Option(help="Also write leaderboard.md and .csv.")] = True,
) -> None:
    """Rebuild the leaderboard from a results folder."""
    from textgym.benchmarks.commands import leaderboard as run

    run(folder, write)


@app.command()
def sample(
    policy: Annotated[list[str], typer.Option(help="Model name, folder or Hub id; may repeat.")],
    task: Task = "summarize",
    data: Data = None,
    prompts: Prompts = 3,
    samples: Annotated[int, typer.Option(min=1, help="Samples per prompt.")] = 2,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    split: Split = "test",
    seed: Seed = 0,
) -> None:
    """Show completions of one or more policies side by side, with their rewards."""
    from textgym.benchmarks.commands import sample as run

    run(policy, one_task(task, data), prompts, samples, temperature, split, seed)


@app.command("eval")
def evaluate(
    policy: Annotated[str, typer.Option(help="Model to judge: name, folder or Hub id.")],
    reference: Annotated[str, typer.Option(help="Model it is measured against.")],
    task: Task = "summarize",
    data: Data = None,
    prompts: Prompts = 64,
    samples: Samples = None,
    split: Split = "test",
    seed: Seed = 0,
    precision: Precision = None,
    json_: Json = False,
) -> None:
    """Measure the KL, reward and diversity loss of two existing models. Trains nothing."""
    from textgym.benchmarks.commands import evaluate as run

    spec = one_task(task, data)
    run(policy, reference, spec, prompts, samples, split, seed, precision, json_)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Hub id or folder with texts, a folder inside it after a colon, its columns after "
            "an @: FOLDER:inside@dialogue+summary; may repeat. The world without it."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "train",
    world: Annotated[
        str, typer.Option(help="Without --data: tiny (reports and a forum) or town.")
    ] = "tiny",
    settings: Settings = None,
    seed: Seed = 0,
) -> None:
    """Pretrain a small language model, on an embedded world or on any texts."""
    from textgym.benchmarks import pretraining

    chosen = options(settings)
    if not data:
        pretraining.pretrain_world(out, chosen, seed, world)
    else:
        pretraining.pretrain_data(out, data, split, chosen, seed)


@app.command("pretrain-toxicity")
def pretrain_toxicity(
    out: Annotated[Path, typer.Option(help="Folder for the classifier.")],
    settings: Settings = None,
    seed: Seed = 0,
) -> None:
    """Train the embedded toxicity classifier, in Detoxify's checkpoint format."""
    from textgym.benchmarks import pretraining

    pretraining.pretrain_toxicity(out, options(settings), seed)


@app.command("pretrain-sentiment")
def pretrain_sentiment(
    out: Annotated[Path, typer.Option(help="Folder for the classifier.")],
    settings: Settings = None,
    seed: Seed = 0,
) -> None:
    """Train the embedded sentiment classifier on the town's reviews."""
    from textgym.benchmarks import pretraining

    pretraining.pretrain_sentiment(out, options(settings), seed)


@app.command("pretrain-reward")
def pretrain_reward(
    out: Annotated[Path, typer.Option(help="Folder for the reward model.")],
    task: Annotated[str, typer.Option(help="summarize, assistant or author.")] = "summarize",
    model: Annotated[
        str | None, typer.Option(help="Language model it starts from; the task's own.")
    ] = None,
    settings: Settings = None,
    seed: Seed = 0,
) -> None:
    """Train an embedded task's reward model on simulated comparisons."""
    from textgym.benchmarks import pretraining

    pretraining.pretrain_reward(out, task, model, options(settings), seed)


app.command()(label)
app.command()(study)
app.command()(report)
app.command()(rescore)
app.add_typer(feedback_app, name="feedback")
app.add_typer(reward_app, name="reward")
app.add_typer(new_app, name="new")
app.add_typer(check_app, name="check")
