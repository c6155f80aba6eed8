"""Writes the page: every section's data, one HTML file, and the charts as PNG files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
import vl_convert
from altair.utils.schemapi import debug_mode

from textgym.benchmarks import trade_offs
from textgym.benchmarks.cell import whole_file
from textgym.benchmarks.page import compare, curves, trade
from textgym.benchmarks.page.charts import Figure, own_colours, theme
from textgym.benchmarks.page.data import FAMILIES, Progress, Results, read_results
from textgym.benchmarks.page.glossary import anchor, define
from textgym.benchmarks.page.origins import cell_commands, command, origins
from textgym.benchmarks.page.png import png
from textgym.benchmarks.page.samples import sample_data
from textgym.benchmarks.page.table import boards, runs
from textgym.benchmarks.suite import folder_name
from textgym.errors import ResultsError

PAGE, FIGURES = "report.html", "figures"


@dataclass(frozen=True)
class Section:
    """A kind of chart: its title, what it answers, and the definitions that it rests on."""

    name: str
    title: str
    question: str
    definitions: tuple[str, ...]


SECTIONS = (
    Section("kl", "Reward against KL", "What is bought at which KL?", ("kl_seq", "frontier")),
    Section(
        "diversity",
        "Reward against diversity kept",
        "What does reward cost in diversity?",
        ("kept", "frontier"),
    ),
    Section(
        "over-optimization",
        "Proxy against gold",
        "Does gold follow the reward that is trained on?",
        ("over_optimization", "gold"),
    ),
    Section("losses", "Diversity loss by metric", "Who loses how much?", ("diversity_loss/ead",)),
    Section(
        "matched",
        "Diversity loss at equal terms",
        "And at the same KL, or the same reward?",
        ("matched", "hypervolume"),
    ),
    Section("best-of-k", "Best of k", "What is left among k tries?", ("best_of_k",)),
    Section("learning", "Learning curves", "How did they get there?", ("kl_seq", "kept")),
    Section("voices", "Voices", "Which of the voices are left?", ("voice_shares",)),
    Section(
        "improvement", "Probability of improvement", "Does a run beat another?", ("improvement",)
    ),
)


@dataclass(frozen=True)
class Written:
    """A file that was written, and its size in bytes."""

    path: Path
    size: int


def write_page(
    folder: Path,
    target: Path | None = None,
    *,
    prompts: int = 8,
    samples: int = 2,
    pngs: bool = True,
    progress: Progress = lambda line: None,
) -> list[Written]:
    """Writes one HTML page of a results folder, and its charts as PNG files.

    Args:
        folder: where `textgym bench` wrote to.
        target: the page; `report.html` in the folder.
        prompts: prompts shown of each task in the browser of samples.
        samples: responses of each agent to a prompt.
        pngs: whether charts are written as PNG files too, into `figures` beside the page.
        progress: hears what is being done.

    Returns:
        The files, the page first.

    Raises:
        ResultsError: the folder holds no results, or the page cannot be written.
    """
    target = target or folder / PAGE
    progress("leaderboard")
    results = read_results(folder)
    with debug_mode(False):  # a check of every part against Vega-Lite's schema is what tests do
        drawn = list(figures(results, progress))
    try:
        written = [_write(target, html(results, drawn, target, prompts, samples, pngs, progress))]
        if pngs:
            for figure, name, file in named(drawn):
                progress(f"PNG: {file}")
                written.append(_write(target.parent / FIGURES / file, png(figure.variants[name])))
    except OSError as error:
        raise ResultsError(f"cannot write {error.filename or target}: {error.strerror}") from error
    return written


def figures(results: Results, progress: Progress) -> Iterator[Figure]:
    """Yields every chart of every task, and where there is none, why."""
    fits = trade_offs.fits(results.paths)
    by = [trade_offs.matched(results.paths, name) for name in ("kl_seq", "reward")]
    matched, volumes = pd.concat(by), trade_offs.volumes(results.paths)
    for task in results.tasks:
        progress(f"charts: {task}")
        yield trade.reward_against_kl(results, task)
        yield trade.reward_against_diversity(results, task)
        yield curves.over_optimization(results, task, fits)
        yield compare.loss_by_metric(results, task)
        yield compare.at_equal_terms(results, task, matched, volumes)
        yield curves.best_of_k(results, task)
        yield curves.learning(results, task)
        yield compare.voices(results, task)
        yield compare.improvement(results, task)


def named(drawn: list[Figure]) -> Iterator[tuple[Figure, str, str]]:
    """Yields every variant of every chart with its name and its PNG's file name."""
    for figure in drawn:
        for name in figure.variants:
            parts = [folder_name(figure.task), figure.section]
            if len(figure.variants) > 1:
                parts.append(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))
            yield figure, name, "-".join(parts) + ".png"


def _write(path: Path, content: str | bytes) -> Written:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    with whole_file(path) as temporary:
        temporary.write_bytes(raw)
    return Written(path, len(raw))


def html(
    results: Results,
    drawn: list[Figure],
    target: Path,
    prompts: int,
    samples: int,
    pngs: bool,
    progress: Progress,
) -> str:
    """Returns the page."""
    tables = boards(results)
    pictures = {(f.section, f.task, n): file for f, n, file in named(drawn)} if pngs else {}
    again, caution = command(results)
    payload = {
        "figures": [_figure(figure, pictures) for figure in drawn],
        "themes": {
            name: {"config": theme(dark), "colours": own_colours(dark)}
            for name, dark in (("light", False), ("dark", True))
        },
        "runs": runs(results, cell_commands(results)),
        "definitions": {
            head.metric: {"anchor": head.anchor, "title": head.title}
            for board in tables
            for head in board.headers
        },
        "folder": _relative(results.out, target),
        "samples": sample_data(results, prompts, samples, progress),
    }
    progress("page")
    metrics = [head.metric for board in tables for head in board.headers]
    metrics += [name for section in SECTIONS for name in section.definitions]
    return _template().render(
        suite=results.suite,
        title=results.suite.get("name") or results.out.name,
        tasks=[board.task for board in tables],
        agents=list(dict.fromkeys(row.agent for board in tables for row in board.rows)),
        boards=tables,
        one_seed=max((row.seeds for board in tables for row in board.rows), default=0) <= 1,
        sections=SECTIONS,
        figures=drawn,
        families={name: FAMILIES[name] for name in FAMILIES if name in results.kinds.values()},
        definitions={name: define(name) for name in dict.fromkeys(["rank", "seeds", *metrics])},
        anchor=anchor,
        origins=origins(results),
        command=again,
        caution=caution,
        payload=escaped(payload),
    )


def _figure(figure: Figure, pictures: dict[tuple[str, str, str], str]) -> dict[str, Any]:
    """Returns a chart for the page's script, each variant with a link to its picture."""
    section, task = figure.section, figure.task
    variants = [
        {"name": name, "spec": spec, "file": _link(pictures.get((section, task, name)))}
        for name, spec in figure.variants.items()
    ]
    return {"section": section, "task": task, "variants": variants}


def _template() -> jinja2.Template:
    """Returns the page's template, with its style and its scripts."""
    # In a function of its own, the bundle's names are not the page's.
    bundle = f"(()=>{{{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}}})();"
    scripts = [_inline(script) for script in (bundle, _asset("page.js"))]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        css=_asset("page.css"), scripts=scripts, hashes=[_hash(script) for script in scripts]
    )
    return environment.from_string(_asset("template.html"))


def escaped(value: Any) -> str:
    r"""Returns JSON that can stand inside a script element whatever texts it holds.

    >>> escaped({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _inline(script: str) -> str:
    """Returns a script without what would end its element."""
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", script, flags=re.IGNORECASE)


def _hash(script: str) -> str:
    """Returns what the page's security policy knows a script by."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _link(file: str | None) -> str:
    return f"{FIGURES}/{quote(file)}" if file else ""


def _relative(folder: Path, target: Path) -> str:
    """Returns the results folder as a link from the page."""
    return quote(Path(os.path.relpath(folder, target.parent)).as_posix())


def _asset(name: str) -> str:
    return (resources.files("textgym.benchmarks.page") / name).read_text("utf-8")
