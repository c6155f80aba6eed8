"""What the documents show is what the results hold."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["quick", "real"])
def test_the_readme_shows_the_committed_leaderboards(name):
    shown = (ROOT / "README.md").read_text().split(f"<!-- leaderboard:{name} -->")[1]
    shown = shown.split(f"<!-- /leaderboard:{name} -->")[0]
    assert shown.strip() == (ROOT / f"results/{name}/leaderboard.md").read_text().strip()


def test_the_real_results_hold_no_texts():
    files = {path.name for path in (ROOT / "results/real").rglob("*") if path.is_file()}
    numbers = {"result.json", "curve.parquet", "prompts.parquet"}
    assert files - numbers == {
        "leaderboard.csv",
        "leaderboard.md",
        "suite.json",
        "language_model.json",
    }


def test_ci_calls_the_readmes_test_command_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text()
