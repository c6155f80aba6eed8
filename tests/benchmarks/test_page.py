"""The page's numbers, worked by hand: what charts, tables and samples hold before a browser."""

import base64
import dataclasses
import hashlib
import html
import importlib.util
import io
import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
import vl_convert
from altair.utils.schemapi import debug_mode
from made_results import (
    EVIL,
    fail,
    make_cell,
    make_results,
    samples_table,
    store,
    store_pool,
    store_suite,
)
from PIL import Image
from typer.testing import CliRunner

from textgym.benchmarks.cli import app
from textgym.benchmarks.page import build, compare, curves, trade
from textgym.benchmarks.page.charts import themed
from textgym.benchmarks.page.command import require_libraries
from textgym.benchmarks.page.data import read_results
from textgym.benchmarks.page.glossary import anchor, define
from textgym.benchmarks.page.origins import cell_commands, command, origins
from textgym.benchmarks.page.png import packed
from textgym.benchmarks.page.samples import Pieces, sample_data
from textgym.benchmarks.page.table import boards, runs
from textgym.benchmarks.suite import configure, split_specs
from textgym.errors import ConfigError, ResultsError
from textgym.models.tokenize import load_tokenizer

TASK = "summarize"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def results(tmp_path_factory, tokenizer):
    ids = {text: tokenizer(text)["input_ids"] for text in ("a b", "c d")}
    return read_results(make_results(tmp_path_factory.mktemp("results"), ids))


@pytest.fixture(scope="module")
def drawn(results):
    with debug_mode(True):
        return {(f.section, f.task): f for f in build.figures(results, lambda line: None)}


def rows_in(spec, *names):
    """Returns the rows of every data set in a chart that have all the names."""
    sets = spec["datasets"].values()
    return [row for rows in sets for row in rows if set(names) <= set(row)]


def by_agent(rows, *names):
    return {row["agent"]: tuple(row[name] for name in names) for row in rows}


# ---- leaderboard


def test_bars_lie_on_the_columns_common_scale(results):
    board = boards(results)[0]
    gold = next(h for h in board.headers if h.metric == "gold")
    row = results.board[results.board["agent"] == "ppo"].iloc[0]
    assert (gold.low, gold.high) == (0, pytest.approx(results.board["gold_high"].max()))
    shown = next(n for r in board.rows if r.agent == "ppo" for n in r.numbers if n.metric == "gold")
    left, width, at = shown.bar
    assert left == pytest.approx(100 * row["gold_low"] / gold.high, abs=0.06)
    assert left + width == pytest.approx(100 * row["gold_high"] / gold.high, abs=0.11)
    assert at == pytest.approx(100 * row["gold"] / gold.high, abs=0.06)


def test_an_estimated_kl_is_sorted_by_and_has_no_bar(results):
    row = next(r for r in boards(results)[0].rows if r.agent == "best of 4")
    kl = next(n for n in row.numbers if n.metric == "kl_seq")
    assert (kl.text, kl.value, kl.bar) == ("~0.60", 0.6, ())


def test_runs_behind_a_number_hold_failures_warnings_and_folders(results):
    found = runs(results, {"summarize/ppo": "textgym bench"})[TASK]
    hostile = found[EVIL]
    assert hostile[0] == {"failure": "seed 1: step 3: the loss is NaN"}
    assert hostile[1]["health"] == [f"ratio: {EVIL} a hint"]
    assert [run["seed"] for run in found["ppo"]] == [0, 1]
    assert found["ppo"][1]["folder"] == "summarize/ppo/seed-1"
    assert found["ppo"][0]["metrics"]["reward"] == [1.05, None, None]
    assert found["ppo"][0]["command"] == "textgym bench"


def test_an_agent_that_failed_everywhere_is_a_row_of_holes(tmp_path):
    store(tmp_path, make_cell("sft"), reward=[0.4, 0.6])
    fail(tmp_path, make_cell("ppo"))
    row = boards(read_results(tmp_path))[0].rows[-1]
    assert (row.agent, row.rank, row.seeds, row.failed) == ("ppo", None, 0, 1)
    assert {number.text for number in row.numbers} == {"failed"}
    assert {number.value for number in row.numbers} == {None}


# ---- charts


def test_every_chart_is_vega_lite_that_compiles(drawn):
    specs = [(figure, name) for figure in drawn.values() for name in figure.variants]
    assert len(specs) > 10
    for figure, name in specs:
        spec = themed(figure.variants[name])
        vega = vl_convert.vegalite_to_vega(spec)
        assert "INK" not in json.dumps({k: v for k, v in vega.items() if k != "data"})


def test_frontier_is_that_of_the_pools(drawn):
    spec = drawn["kl", TASK].variants["reward"]
    line = rows_in(spec, "y_low", "y_high", "x")
    line = sorted((row for row in line if "agent" not in row), key=lambda row: row["x"])
    # No KL: the mean of the pools. All weight on the best: log 4 nats, means of 1 and 0.8.
    assert (line[0]["x"], line[0]["y"]) == (0, pytest.approx(0.5))
    assert line[-1]["x"] == pytest.approx(np.log(4), abs=1e-3)
    assert line[-1]["y"] == pytest.approx(0.9)


def test_without_pools_the_frontier_is_dashes_at_the_agents_kl(tmp_path):
    store(tmp_path, make_cell("sft"), reward=[0.4, 0.6], kl=0.0)
    cell = make_cell("ppo")
    store(tmp_path, cell, reward=[1.0, 1.0], kl=2.0)
    path = tmp_path / cell.name / "prompts.parquet"
    best = {"frontier/reward": 1.5, "frontier/reference_reward": 0.5}
    pd.read_parquet(path).assign(**best).to_parquet(path)
    figure = trade.reward_against_kl(read_results(tmp_path), TASK)
    points = [row for row in rows_in(figure.variants["reward"], "x", "y") if "agent" not in row]
    assert [(p["x"], p["y"]) for p in points] == [(0, 0.5), (2, 1.5)]
    assert "Dashes" in figure.note
    assert (
        "Samples of the reference were not kept"
        in trade.reward_against_diversity(read_results(tmp_path), TASK).note
    )


def test_checkpoints_lead_to_where_an_agent_came(drawn):
    rows = rows_in(drawn["kl", TASK].variants["gold"], "step", "x", "y")
    way = [row for row in rows if row["agent"] == "ppo"]
    assert [(row["x"], row["y"]) for row in way] == [(0, 0.5), (1, 0.6), (2, 0.7), (4, 0.6)]
    rows = rows_in(drawn["diversity", TASK].variants["reward"], "step", "x", "y")
    way = [row for row in rows if row["agent"] == "ppo"]
    assert [row["x"] for row in way] == pytest.approx([1, 0.75, 0.625, 0.5])
    assert [row["y"] for row in way] == pytest.approx([0.55, 0.75, 0.95, 1.05])


def test_kept_diversity_turns_the_losss_interval_round(results, drawn):
    rows = rows_in(drawn["diversity", TASK].variants["reward"], "x_low", "x_high")
    kept = by_agent(rows, "x", "x_low", "x_high")["best of 4"]
    assert kept == pytest.approx((0.9, 0.9, 0.9))
    row = results.board[results.board["agent"] == "ppo"].iloc[0]
    x, low, high = by_agent(rows, "x", "x_low", "x_high")["ppo"]
    assert low < x < high
    assert (x, low, high) == pytest.approx(
        tuple(1 - row[f"diversity_loss/ead{end}"] for end in ("", "_high", "_low")), abs=1e-3
    )
    optimum = [
        r for r in rows_in(drawn["diversity", TASK].variants["gold"], "order") if "agent" not in r
    ]
    assert [(r["x"], r["y"]) for r in optimum] == [(1, 0.5), (0.5, 0.9)]


def test_best_of_k_by_hand(tmp_path):
    tables = {"samples": samples_table([[1.0, 0.0], [2.0, 4.0]])}
    store(tmp_path, make_cell("ppo"), reward=[0.5, 3.0], tables=tables)
    store_pool(tmp_path, make_cell("ppo"), [[0, 1, 0, 0], [1, 1, 1, 1]])
    spec = curves.best_of_k(read_results(tmp_path), TASK).variants["reward"]
    rows = {(row["agent"], row["k"]): row["y"] for row in rows_in(spec, "k")}
    assert rows["ppo", 1] == pytest.approx((0.5 + 3) / 2)
    assert rows["ppo", 2] == pytest.approx((1 + 4) / 2)
    # Of the pool's 6 pairs 3 hold the one: 1/2 on the first prompt, 1 on the second.
    assert rows[curves.BEFORE, 1] == pytest.approx((0.25 + 1) / 2, abs=1e-3)
    assert rows[curves.BEFORE, 2] == pytest.approx((0.5 + 1) / 2)
    assert (curves.BEFORE, 3) not in rows


def test_learning_bands_go_from_the_lowest_seed_to_the_highest(drawn):
    figure = drawn["learning", TASK]
    assert list(figure.variants) == [*curves.MEASURED.values(), "reward, as logged"]
    rows = rows_in(figure.variants["reward"], "low", "high")
    at_four = next(row for row in rows if row["completions"] == 4)
    assert (at_four["low"], at_four["y"], at_four["high"]) == pytest.approx((0.7, 0.75, 0.8))
    kept = rows_in(figure.variants["diversity kept (EAD)"], "low", "high")
    assert [row["y"] for row in kept] == pytest.approx([1, 0.75, 0.625, 0.5])
    logged = rows_in(figure.variants["reward, as logged"], "low", "high")
    assert [(r["completions"], r["y"]) for r in logged] == [(4, 0.5), (8, pytest.approx(1.0))]


def test_a_point_that_one_seed_lacks_is_left_out(results):
    table = pd.DataFrame(
        {"agent": "ppo", "seed": [0, 0, 1], "completions": [1.0, 2.0, 1.0], "y": [1.0, 9.0, 3.0]}
    )
    rows = rows_in(curves._curves(results, table, "y"), "low", "high")
    assert [(row["completions"], row["y"]) for row in rows] == [(1, 2)]


ENDS = {"low": 0.0, "high": 4.0}


def test_over_optimization_fits_follow_the_law(results):
    fit = {"task": TASK, "agent": "ppo", "score": "gold", "law": "rl", "a": 2.0, "b": 1.0}
    ends = {f"{name}_{end}": value for name in ("a", "b", "peak") for end, value in ENDS.items()}
    fits = pd.DataFrame([{**fit, "peak": 3.0, **ends}])
    spec = curves.over_optimization(results, TASK, fits).variants["by agent"]
    rows = rows_in(spec, "d", "score")
    # The last checkpoint spent 4 nats: d = 2, where the law gives 2 (2 - log 2).
    fitted = [row for row in rows if row["kind"] != "dot" and row["agent"] == "ppo"]
    assert (fitted[-1]["d"], fitted[-1]["y"]) == pytest.approx((2, 2 * (2 - np.log(2))), rel=1e-3)
    assert fitted[0]["kind"].startswith("a 2 (0 to 4) b 1")
    gold = [r for r in rows if r["kind"] == "dot" and r["score"] == "gold" and r["agent"] == "ppo"]
    assert [row["d"] for row in gold] == pytest.approx([0, 1, np.sqrt(2), 2], rel=1e-3)
    assert [row["y"] for row in gold] == pytest.approx([0, 0.1, 0.2, 0.1])


def test_equal_terms_leave_out_who_never_came_as_far(results):
    matched = pd.DataFrame(
        {
            "task": TASK,
            "agent": ["ppo", "best of 4"],
            "by": "kl_seq",
            "level": 1.0,
            "loss": [0.25, np.nan],
            "low": [0.2, np.nan],
            "high": [0.3, np.nan],
        }
    )
    none = pd.DataFrame(columns=["task", "agent", "score", "volume", "low", "high"])
    figure = compare.at_equal_terms(results, TASK, matched, none)
    rows = rows_in(figure.variants["KL 1 nats"], "value")
    assert by_agent(rows, "value", "low", "high") == {"ppo": (0.25, 0.2, 0.3)}


def test_voices_are_means_over_seeds_and_start_with_the_reference(tmp_path):
    for seed, share in enumerate((0.5, 1.0)):
        metrics = {"mode_share/lead": {"value": share}}
        if share < 1:
            metrics["mode_share/troll"] = {"value": 1 - share}
        store(tmp_path, make_cell("ppo", seed), reward=[1.0, 1.0], metrics=metrics)
    alike = {"mode_share/lead": {"value": 1.0}}
    store(tmp_path, make_cell("sft"), reward=[0.0, 0.0], metrics=alike)
    spec = compare.voices(read_results(tmp_path), TASK).variants["voices"]
    rows = rows_in(spec, "voice")
    shares = {(row["agent"], row["voice"]): row["share"] for row in rows}
    assert shares["ppo", "troll"] == 0.25
    assert shares["ppo", "lead"] == 0.75
    assert rows[0]["agent"] == "sft"


def test_improvement_counts_pairs_of_runs_with_ties_as_half(tmp_path):
    for seed, (one, two) in enumerate([(1.0, 2.0), (3.0, 2.0)]):
        store(tmp_path, make_cell("ppo", seed), reward=[one, one])
        store(tmp_path, make_cell("sft", seed), reward=[two, two])
        store(tmp_path, make_cell("best of 4", seed), reward=[3.0, 3.0])
    spec = compare.improvement(read_results(tmp_path), TASK).variants["gold"]
    beats = {(row["agent"], row["other"]): row["p"] for row in rows_in(spec, "p")}
    assert beats["ppo", "sft"] == beats["sft", "ppo"] == 0.5
    assert beats["ppo", "best of 4"] == 0.25
    assert beats["best of 4", "ppo"] == 0.75


def test_improvement_is_towards_less_where_less_is_better(tmp_path):
    for seed in (0, 1):
        for agent, regret in (("ppo", 0.1), ("sft", 0.9)):
            cell = make_cell(agent, seed)
            store(tmp_path, cell, reward=[1.0, 1.0])
            path = tmp_path / cell.name / "prompts.parquet"
            pd.read_parquet(path).assign(regret=regret).to_parquet(path)
    spec = compare.improvement(read_results(tmp_path), TASK).variants["regret"]
    assert {(r["agent"], r["other"]): r["p"] for r in rows_in(spec, "p")}["ppo", "sft"] == 1


def test_what_is_missing_is_said(tmp_path):
    store(tmp_path, make_cell("ppo"), reward=[1.0, 1.0], metrics={})
    results = read_results(tmp_path)
    drawn = {f.section: f for f in build.figures(results, lambda line: None)}
    said = {name: figure.missing for name, figure in drawn.items() if figure.missing}
    assert set(said) == {
        "over-optimization",
        "matched",
        "best-of-k",
        "learning",
        "voices",
        "improvement",
    }
    assert "several seeds" in said["improvement"]
    page = build.html(results, [], tmp_path / "report.html", 8, 2, False, lambda line: None)
    assert "this page cannot\n    rank" in page


def test_two_seeds_may_rank(results, tmp_path):
    page = build.html(results, [], tmp_path / "report.html", 8, 2, False, lambda line: None)
    assert "this page cannot" not in page


# ---- samples


def test_pieces_join_to_the_response_and_know_foreign_tokens(tokenizer):
    pieces = Pieces(tokenizer)
    text = "The café opened at 07:53 – twice."
    ids = tokenizer(text)["input_ids"]
    places = pieces.split([*ids, tokenizer.eos_token_id], text)
    assert len(places) == len(ids) + 1
    assert "".join(pieces.texts[place] for place in places[:-1]) == text
    assert pieces.texts[places[-1]] == tokenizer.eos_token
    assert pieces.split(ids[1:], text) is None


def test_samples_hold_tokens_where_they_spell_the_text(results):
    shown = sample_data(results, prompts=1, samples=2, progress=lambda line: None)[0]
    assert shown["prompts"] == [f"{EVIL} 0"]
    first, second = shown["agents"]["ppo"][0]
    assert (first["reward"], second["reward"]) == (0, 1)
    assert "".join(shown["pieces"][i] for i in second["tokens"]) == "c d"
    assert set(second["policy"]) == {-0.25}
    # Its tokens were not kept, so its text stands whole.
    assert shown["agents"][EVIL][0][0]["text"] == EVIL
    assert "1 of 2 prompts" in shown["note"]


def test_without_a_tokenizer_texts_stand_whole(tmp_path):
    ids = {"a b": [1, 2], "c d": [3, 4]}
    tables = {"samples": samples_table([[0.0, 1.0]], ids=ids)}
    store(tmp_path, make_cell("ppo", model="./gone"), reward=[1.0, 1.0], tables=tables)
    shown = sample_data(read_results(tmp_path), 8, 2, lambda line: None)[0]
    assert [answer["text"] for answer in shown["agents"]["ppo"][0]] == ["a b", "c d"]
    assert "no tokenizer was found" in shown["note"]


# ---- escaping


def test_json_in_the_page_cannot_end_its_element():
    value = {"a": EVIL, "b": [EVIL]}
    text = build.escaped(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_hostile_texts_are_nowhere_markup(results, drawn, tmp_path):
    page = build.html(
        results, list(drawn.values()), tmp_path / "r.html", 8, 2, True, lambda line: None
    )
    shown = page.split("(()=>{")[0]
    assert html.escape(EVIL.rstrip("\u2028&"), quote=False) in shown
    assert "<img" not in shown
    # The data and the two scripts, and nothing that came with a text.
    elements = re.findall(r"<script[ >]", shown)
    assert len(elements) == 2


def test_the_policy_of_the_page_lets_in_its_own_scripts_alone(results, tmp_path):
    page = build.html(results, [], tmp_path / "r.html", 8, 2, False, lambda line: None)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none';")
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    allowed = re.findall(r"'(sha256-[^']*)'", policy)
    assert allowed == [f"sha256-{base64.b64encode(digest).decode()}" for digest in digests]
    assert len(scripts) == 2


# ---- definitions and provenance


def test_every_column_has_a_definition(results):
    metrics = [head.metric for board in boards(results) for head in board.headers]
    assert "diversity_loss/ead" in metrics
    assert all("as the task says" not in define(metric).formula for metric in metrics)
    assert len({anchor(metric) for metric in metrics}) == len(metrics)


def test_mixed_versions_and_machines_are_marked(tmp_path):
    store(tmp_path, make_cell("sft"), reward=[0.4, 0.6], versions={"torch": "2.0"})
    other = {"system": "Linux", "cores": 64, "processor": "another"}
    changes = {"versions": {"torch": "2.1"}, "machine": other, "seconds": 62.0}
    store(tmp_path, make_cell("ppo", 1), reward=[0.4, 0.6], **changes)
    lines = {line.name: line for line in origins(read_results(tmp_path))}
    assert (lines["torch"].value, lines["torch"].mixed) == ("2.1, 2.0", True)
    assert lines["machine"].mixed
    assert (lines["seeds"].value, lines["seeds"].mixed) == ("0, 1", False)
    assert not lines["reference"].mixed
    assert lines["wall time"].value == "2 cells, 1 min in all, median 32.0 s"


def plain(suite):
    return json.loads(json.dumps(dataclasses.asdict(suite), default=str))


def test_the_command_repeats_what_was_run(results, tmp_path):
    chosen = {"agents": "sft, temperature 0.7,best_of_n@n=16", "seeds": "3,4", "prompts": 7}
    stored = plain(configure("quick", budget=64, **chosen))
    made = dataclasses.replace(results, suite=stored, out=tmp_path / "a folder")
    line, caution = command(made)
    assert caution == ""
    assert line.startswith("textgym bench --suite quick --budget 64 --seeds 3,4 --agents ")
    assert "'sft, temperature 0.7,best_of_n@n=16'" in line
    assert "--prompts 7" in line
    assert line.endswith(f"--out '{tmp_path}/a folder'")
    cells = cell_commands(made)
    assert "--agents best_of_n@n=16 " in cells["summarize/best_of_n@n=16"]
    named = split_specs("sft, temperature 0.7", ["sft, temperature 0.7"])
    assert named == ["sft, temperature 0.7"]


def test_what_no_command_can_say_is_said(results):
    assert command(dataclasses.replace(results, suite={}))[0] == ""
    own = {**plain(configure("quick")), "name": "mine"}
    line, caution = command(dataclasses.replace(results, suite=own))
    assert (line, "TOML" in caution) == ("", True)
    other = plain(configure("quick"))
    other["sft"] = {"steps": 7}
    assert "another sft" in command(dataclasses.replace(results, suite=other))[1]


# ---- files


def test_the_command_writes_a_page_and_pictures(tmp_path, monkeypatch):
    out = tmp_path / "results"
    store(out, make_cell("ppo"), reward=[1.0, 1.0], metrics={})
    store_suite(out, {"name": "<b>mine</b>", "description": "what it is for"})
    said = CliRunner().invoke(app, ["report", str(out)])
    assert said.exit_code == 0, said.output
    assert "report.html: " in said.output.replace("\n", "")
    page = (out / "report.html").read_text("utf-8")
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "<b>mine" not in page
    pngs = sorted(path.name for path in (out / "figures").iterdir())
    assert pngs == [
        "summarize-diversity-gold.png",
        "summarize-diversity-reward.png",
        "summarize-kl-gold.png",
        "summarize-kl-reward.png",
        "summarize-losses.png",
    ]
    raw = (out / "figures" / "summarize-losses.png").read_bytes()
    assert raw.startswith(b"\x89PNG")
    assert int.from_bytes(raw[16:20]) > 2 * 560


def test_packing_keeps_every_pixel(drawn):
    spec = themed(drawn["voices", TASK].variants["voices"])
    drawn_png = vl_convert.vegalite_to_png(spec)
    smaller = packed(drawn_png)
    assert len(smaller) < len(drawn_png)
    pictures = [Image.open(io.BytesIO(picture)) for picture in (drawn_png, smaller)]
    for picture in pictures:
        picture.load()
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert smaller.endswith(b"IEND" + zlib.crc32(b"IEND").to_bytes(4))


def test_a_page_elsewhere_links_back_to_the_cells(tmp_path):
    out = tmp_path / "results"
    store(out, make_cell("ppo"), reward=[1.0, 1.0])
    page = tmp_path / "pages" / "mine.html"
    said = CliRunner().invoke(app, ["report", str(out), "--out", str(page), "--no-figures"])
    assert said.exit_code == 0, said.output
    data = re.search(r'id="data">(.*?)</script>', page.read_text("utf-8"), flags=re.DOTALL)[1]
    assert json.loads(data)["folder"] == "../results"
    assert [path.name for path in page.parent.iterdir()] == ["mine.html"]


def test_no_results_is_one_clear_error(tmp_path):
    with pytest.raises(ResultsError, match="holds no results"):
        build.write_page(tmp_path)
    with pytest.raises(ResultsError, match="no results folder"):
        build.write_page(tmp_path / "gone")


def test_a_missing_extra_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "altair" else real(name)
    )
    with pytest.raises(ConfigError, match=r"need altair: pip install 'textgym\[report\]'"):
        require_libraries()


def test_those_that_no_other_beats_are_named():
    points = {"cheap": (0.1, 0.5), "best": (2.0, 0.9), "beaten": (3.0, 0.8), "tied": (0.1, 0.4)}
    rows = [{"agent": agent, "x": x, "y": y} for agent, (x, y) in points.items()]

    def names(less):
        return {row["agent"] for row in trade.leading(rows, less=less) if row["leads"]}

    assert names(less=True) == {"cheap", "best"}
    assert names(less=False) == {"best", "beaten"}, "where more of x is better"
    rows.append({"agent": "beside", "x": 1.9, "y": 0.89})
    assert names(less=True) == {"cheap", "best"}, "two names on each other"
