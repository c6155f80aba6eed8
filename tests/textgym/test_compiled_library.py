"""Compiling once, and doing without."""

import logging
import os

import pytest
import torch
from policy_support import PROMPTS, WINDOW, make_policy

from textgym.models.compiled import library
from textgym.models.sampling import sample_tokens
from textgym.models.tokenize import encode_prompts
from textgym.types import Sampling

needs_compiler = pytest.mark.skipif(library.library() is None, reason="no C++ compiler was found")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and nothing loaded."""
    monkeypatch.setenv("TEXTGYM_CACHE", str(tmp_path))
    library._loaded.cache_clear()
    yield tmp_path
    library._loaded.cache_clear()


def counting_compiler(folder):
    """A compiler that notes what it is asked."""
    script = folder / "compiler"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexec c++ "$@"\n')
    script.chmod(0o755)
    return script


@needs_compiler
def test_it_is_compiled_once(fresh, monkeypatch):
    monkeypatch.setenv("CXX", str(counting_compiler(fresh)))
    assert library.library() is not None
    library._loaded.cache_clear()
    assert library.library() is not None
    compiled = [line for line in (fresh / "calls").read_text().splitlines() if "-shared" in line]
    assert len(compiled) == 1


@needs_compiler
def test_a_flag_that_the_compiler_lacks_is_left_out(fresh, monkeypatch):
    script = counting_compiler(fresh)
    script.write_text('#!/bin/sh\ncase "$*" in *native*) exit 1;; esac\nexec c++ "$@"\n')
    monkeypatch.setenv("CXX", str(script))
    assert library.library() is not None


@pytest.mark.parametrize("command", ["false", "no-such-compiler", "sh -c 'echo 1; exit 3' --"])
def test_what_fails_to_compile_is_said_once(fresh, monkeypatch, caplog, command):
    monkeypatch.setenv("CXX", command)
    with caplog.at_level(logging.WARNING):
        assert library.library() is None
        assert library.library() is None
    assert [r.message[:40] for r in caplog.records] == ["plain PyTorch is used, which is slower: "]
    assert not list(fresh.glob("compiled-*"))
    assert not list(fresh.glob(".compiled-*"))


def test_no_compiler_is_said(fresh, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    with caplog.at_level(logging.WARNING):
        assert library.library() is None
    assert "no C++ compiler was found" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_folder_that_cannot_be_written_is_said(fresh, monkeypatch, caplog):
    fresh.chmod(0o500)
    with caplog.at_level(logging.WARNING):
        assert library.library() is None
    assert "cannot be written" in caplog.text


@needs_compiler
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_same_tokens_are_drawn_without_it(family, monkeypatch):
    policy = make_policy(family)
    ids, mask = encode_prompts(policy.tokenizer, PROMPTS, WINDOW)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand((60, 20), generator=generator, dtype=torch.float64)
    ours = sample_tokens(policy, ids, mask, drawn, Sampling())
    monkeypatch.setattr(library, "ENABLED", False)
    plain = sample_tokens(policy, ids, mask, drawn, Sampling())
    assert torch.equal(ours.ids, plain.ids)
    torch.testing.assert_close(ours.policy_logprobs, plain.policy_logprobs, atol=1e-5, rtol=1e-5)
