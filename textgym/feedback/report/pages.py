"""The report as Markdown and as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from textgym.feedback.report.names import markdown_block, markdown_text, one_line
from textgym.feedback.report.report import Mistake, RewardReport
from textgym.feedback.report.tables import Table, tables, verdict_table
from textgym.feedback.report.verdict import Verdict, verdicts

TITLE = "How far can this reward be trusted?"
CSS = """
:root { color-scheme: light dark; --text: #1c1e21; --page: #fff; --soft: #6a6f76;
  --line: #d9dce0; --good: #1a7f4b; --bad: #b3372b; --open: #8a6a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --page: #16181b; --soft: #9aa0a8;
  --line: #33373d; --good: #4cc38a; --bad: #f2786b; --open: #e0b643; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: var(--text);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
.verdicts { list-style: none; padding: 0; margin: 1rem 0; }
.verdicts li { padding: .2rem 0 .2rem .8rem; border-left: .3rem solid var(--open);
  margin-bottom: .4rem; }
details { margin: 0 0 1.5rem; font-size: .9rem; } summary { color: var(--soft); cursor: pointer; }
.verdicts li.good { border-color: var(--good); } .verdicts li.bad { border-color: var(--bad); }
.answer { font-weight: 600; color: var(--open); }
.good .answer { color: var(--good); } .bad .answer { color: var(--bad); }
.small { color: var(--soft); font-size: .85rem; margin: .2rem 0; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem),
  1fr)); } .plots figure { margin: 0; }
svg { max-width: 100%; height: auto; display: block; margin: 0 auto; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: normal; }
td:first-child { overflow-wrap: anywhere; min-width: 7rem; }
td { font-variant-numeric: tabular-nums; } th { color: var(--soft); font-weight: 500; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: .2rem solid var(--line);
  padding-left: .8rem; margin: .3rem 0 1rem; font-size: .85rem; }
"""


def markdown(report: RewardReport, plots: Sequence[str]) -> str:
    """Returns the report as Markdown.

    Args:
        report: what is shown.
        plots: names of the pictures, PNG files beside the page.
    """
    verdict = verdict_table(report)
    parts = [f"# {TITLE}", _markdown_table(verdict)]
    parts += [f"![{name}]({name}.png)" for name in plots]
    for table in tables(report):
        parts += [f"## {markdown_text(table.title)}", _markdown_table(table)]
        parts += [markdown_text(table.note)] if table.note else []
    if report.mistakes:
        parts.append(f"## {_worst(report.mistakes)}")
    for mistake in report.mistakes:
        parts.append(markdown_text(_whose(mistake)))
        for name, text in _texts(mistake).items():
            parts += [f"{name}:", markdown_block(text)]
    return "\n\n".join(parts) + "\n"


def html_page(report: RewardReport, plots: Mapping[str, str]) -> str:
    """Returns the report as one page with its style and pictures inside, and no script.

    Args:
        report: what is shown.
        plots: the pictures by name, SVG elements.
    """
    parts = [f"<h1>{TITLE}</h1>", _html_verdicts(verdicts(report))]
    parts.append('<div class="plots">')
    parts += [f"<figure>{picture}</figure>" for picture in plots.values()]
    parts.append("</div>")
    for table in tables(report):
        parts += [f"<h2>{html.escape(table.title)}</h2>", _html_table(table)]
        parts += [f'<p class="small">{html.escape(table.note)}</p>'] if table.note else []
    if report.mistakes:
        parts.append(f"<h2>{_worst(report.mistakes)}</h2>")
    for mistake in report.mistakes:
        parts.append(f"<p>{html.escape(_whose(mistake))}</p>")
        for name, text in _texts(mistake).items():
            parts.append(f'<p class="small">{name}</p><pre>{html.escape(text)}</pre>')
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(parts) + "\n</body>\n</html>\n"


def _markdown_table(table: Table) -> str:
    rows = [[markdown_text(c) for c in table.columns], ["---"] * len(table.columns)]
    cells = [[markdown_text(_cell(cell)) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [*rows, *cells])


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in table.rows
    ]
    body = "\n".join(rows)
    return f'<div class="table"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _html_verdicts(found: Sequence[Verdict]) -> str:
    lines = ['<ul class="verdicts">']
    for v in found:
        side = {True: "good", False: "bad", None: "open"}[v.good]
        question, numbers = html.escape(_cell(v.question)), html.escape(_cell(v.numbers))
        answer = f'<span class="answer">{v.answer}</span>'
        lines.append(f'<li class="{side}">{question}: {answer}, {numbers}</li>')
    rules = _html_table(Table("", ["question", "rule"], [[v.question, v.rule] for v in found]))
    lines += ["</ul>", f"<details><summary>The rules</summary>{rules}</details>"]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Returns a text on one line, in which intervals do not break."""
    line = one_line(text, 300)
    return re.sub(r" (\[[^\s\]]+,) ([^\s\]]+\])", "\u00a0\\1\u00a0\\2", line)


def _worst(mistakes: Sequence[Mistake]) -> str:
    return f"The {len(mistakes)} worst mistakes"


def _whose(mistake: Mistake) -> str:
    by = one_line(mistake.annotator) + (f" of {one_line(mistake.group)}" if mistake.group else "")
    return f"Preferred by {by}, though the reward is {-mistake.margin:.3g} lower."


def _texts(mistake: Mistake) -> dict[str, str]:
    return {
        "prompt": mistake.prompt,
        "preferred": mistake.chosen,
        "the other": mistake.rejected,
    }
