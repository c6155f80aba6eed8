"""What the documents show is what the results hold."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readme_shows_the_committed_leaderboard():
    shown = (ROOT / "README.md").read_text().split("<!-- leaderboard:quick -->")[1]
    shown = shown.split("<!-- /leaderboard:quick -->")[0]
    assert shown.strip() == (ROOT / "results/quick/leaderboard.md").read_text().strip()


def test_ci_calls_the_readmes_test_command_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text()
