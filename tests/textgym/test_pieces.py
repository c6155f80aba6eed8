"""Large batches are scored in pieces: the same numbers, of a few rows' activations at once."""

import pytest
import torch
from policy_support import CountTask, make_policy

from textgym.models import pieces
from textgym.models.policy import Policy
from textgym.models.value_head import ValueModel
from textgym.rollout import rollout

ROWS = 12
KINDS = ("logprobs", "values")


@pytest.fixture(scope="module")
def policy():
    return make_policy("llama")


@pytest.fixture(scope="module")
def samples(policy):
    task, generator = CountTask(), torch.Generator().manual_seed(0)
    found = rollout(policy, task, task.prompts("train"), samples_per_prompt=3, generator=generator)
    assert len(found) == ROWS
    return found


def scorer(kind, policy, monkeypatch):
    """What scores a rollout, its parameters, and the sizes of the pieces that it is asked for."""
    sizes = []
    owner, name = (Policy, "_score") if kind == "logprobs" else (ValueModel, "_values")
    score = getattr(owner, name)

    def counted(self, rollout, rows):
        sizes.append(len(rows))
        return score(self, rollout, rows)

    monkeypatch.setattr(owner, name, counted)
    if kind == "logprobs":
        return policy.logprobs, policy.parameters(), sizes
    model = ValueModel(policy, torch.Generator().manual_seed(1))
    return model, list(model.parameters()), sizes


def gradients(score, parameters, samples):
    weights = torch.linspace(-1, 1, samples.response_ids.shape[1])
    return torch.autograd.grad((score(samples) * weights).sum(), parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_accumulate_the_gradient_of_the_whole(kind, policy, samples, monkeypatch):
    score, parameters, sizes = scorer(kind, policy, monkeypatch)
    whole = gradients(score, parameters, samples)
    assert sizes == [ROWS]
    outputs = policy.vocab_size if kind == "logprobs" else 1
    at_once = pieces.train_rows(samples, policy.model.config, outputs)
    row_bytes = pieces.TRAIN_BYTES // at_once
    monkeypatch.setattr(pieces, "TRAIN_BYTES", 5 * row_bytes + row_bytes // 2)
    sizes.clear()
    found = gradients(score, parameters, samples)
    assert sizes[:3] == [5, 5, 2]
    assert sorted(sizes[3:]) == [2, 5, 5], "each piece is computed again for its gradient"
    for part, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_gradients_pieces_are_of_so_many_tokens(kind, policy, samples, monkeypatch):
    score, _, sizes = scorer(kind, policy, monkeypatch)
    whole = score(samples)
    tokens = samples.prompt_ids.shape[1] // 3 + samples.response_ids.shape[1]
    monkeypatch.setattr(pieces, "CHUNK_TOKENS", 5 * tokens)
    torch.testing.assert_close(score(samples), whole, atol=1e-5, rtol=1e-5)
    assert sizes == [ROWS, 5, 5, 2]


def test_wide_outputs_make_small_pieces(samples, monkeypatch):
    """Of 7 rows' logits, 2 rows and a half at a time are 2 rows."""
    outputs = 1000
    monkeypatch.setattr(pieces, "CHUNK_FLOATS", 2500 * samples.response_ids.shape[1])
    rows = torch.arange(7)
    assert list(map(len, pieces.chunks(samples.select(rows), outputs))) == [2, 2, 2, 1]
    assert torch.cat(pieces.chunks(samples.select(rows), outputs)).equal(rows)
