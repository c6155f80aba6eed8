"""Settings for every test: one torch thread, as in a benchmark's worker, and no network."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Idle workers of one process must not take the cores from another's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The oracle tasks' language models are fitted once, not once per worker and run.
os.environ.setdefault("TEXTGYM_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "textgym"))

import pytest
import torch

from textgym.models import precision

torch.set_num_threads(1)
# Many tests hold numbers of the packaged model, 128 wide, to 1e-5, on any machine.
precision.WIDE = 256

PLUGINS = Path(__file__).parent / "benchmarks" / "plugins.py"


@pytest.fixture(scope="session")
def plugin():
    """Name of a class of plugins.py -> what the command line calls it."""
    return lambda name: f"{PLUGINS}:{name}"


def make_model(folder, vocab_size):
    from textgym.models.policy import Policy
    from textgym.models.pretrain import PretrainConfig, make_llama
    from textgym.models.tokenize import train_tokenizer

    config = PretrainConfig(width=16, layers=1, heads=2, kv_heads=2, intermediate=32, context=64)
    texts = ["say 1: a b a", "say 2: b a", "say 3: c d e f g"]
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    Policy(make_llama(config, tokenizer), tokenizer).save(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a tiny random Llama over a handful of words."""
    return make_model(tmp_path_factory.mktemp("model"), vocab_size=300)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory):
    """The same with another vocabulary."""
    return make_model(tmp_path_factory.mktemp("model"), vocab_size=261)


@pytest.fixture(scope="session")
def chromium():
    """A headless browser; without one the tests that ask for it are skipped."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the browser tests need Playwright: pip install playwright"
    )
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("the browser tests need Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--headless"])
        yield browser
        browser.close()
