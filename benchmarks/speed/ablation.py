"""What each change gives: sampling and a training step as they are, beside the same without it.

One change is taken back at a time, by patching the name that it hangs on, on the yardstick model
and load. Nothing else is touched: what comes out is the same but for rounding, or for which random
numbers were drawn. Ratios do not multiply, since some changes only matter because of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

from textgym.benchmarks.speed.models import YARDSTICK, make_model, make_policy
from textgym.benchmarks.speed.sampling import Load, random_prompts
from textgym.benchmarks.speed.timing import Ratio, compare
from textgym.functional import policy_gradient_loss
from textgym.models.compiled.decoding import fits
from textgym.models.compiled.library import library
from textgym.models.policy import Policy
from textgym.models.precision import describe
from textgym.models.sampling import sample_tokens
from textgym.types import Rollout, Sampling

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LOAD = Load(8, samples=8)
WIDTHS = (64, 128, 256, 512)
"""Hidden sizes at which bfloat16 is held against float32; `textgym.models.precision.WIDE` is where
it begins to pay."""
KL_COEF = 0.05
EARLY_ENDS = 2.0
"""Responses of unequal lengths end after each token with this probability over T."""

DIRECT = "float32: weights read directly, not through transformers"
ALONE = "with nothing shared or padded, PyTorch's products"
BY_ONEDNN = "oneDNN's products, not PyTorch's own"
COMPILED = "steps between products compiled, not PyTorch's"
ONE_CALL = "a step of all layers in one compiled call, not PyTorch's"
PLAINLY = "with PyTorch's steps"

Run = Callable[[], Any]
Change = tuple[str, Run, Run]
"""What a change is called, a run as things are, and a run without the change."""


def measure(
    repeats: int = 5,
    model: str = YARDSTICK,
    load: Load = LOAD,
    widths: Sequence[int] = WIDTHS,
) -> list[Ratio]:
    """Times every change on the CPU; `Ratio.peer` is the time without it.

    Args:
        repeats: pairs of runs per row.
        model: one of `textgym.benchmarks.speed.models.SIZES`.
        load: of sampling and of a training step.
        widths: hidden sizes at which bfloat16 is held against float32.

    Returns:
        Rows of the load; those of other widths, of lone or of long prompts have a third of its
        response tokens.
    """
    return [compare(*change, repeats=repeats) for change in changes(model, load, widths)]


def changes(model: str, load: Load, widths: Sequence[int]) -> Iterator[Change]:
    """Yields every change; the arguments are those of `measure`."""
    yardstick = make_model(model)
    yield from sampling_changes(yardstick, load)
    yield from training_changes(yardstick, load)
    for width in widths:
        yield from precision_changes(width, _shortened(load))


def sampling_changes(model: LlamaForCausalLM, load: Load) -> Iterator[Change]:
    """Yields what makes sampling fast.

    With direct reading go compiled steps and the sharing of prompts, which hang on it; the second
    row leaves both out on either side. A compiled step has oneDNN's products in it.
    """
    exact, policy = make_policy(model, "float32"), make_policy(model)
    step = f"Sampling, {describe(policy.precision)}"
    prompts, uniforms = random_prompts(load, policy.vocab_size), uniform_numbers(load)

    run = sampling_run(exact, prompts, uniforms)
    alone = _shortened(replace(load, prompts=load.rows, samples=1))
    ids, mask = random_prompts(alone, policy.vocab_size)
    plain = sampling_run(exact, (ids, torch.ones_like(mask)), uniform_numbers(alone))
    plain = plainly(without("linear._ONEDNN", False, plain))
    yield f"Sampling, {DIRECT}", run, without("policy.read", no_decoder, run)
    yield f"Sampling, {DIRECT}, {ALONE}", plain, without("policy.read", no_decoder, plain)
    for shared in (load, _shortened(replace(load, prompt_tokens=8 * load.prompt_tokens))):
        once, drawn = random_prompts(shared, policy.vocab_size), uniform_numbers(shared)
        again = tuple(x.repeat_interleave(load.samples, dim=0) for x in once)
        name = f"{step}: prompts of {shared.prompt_tokens} tokens read once, not per sample"
        yield name, sampling_run(policy, once, drawn), sampling_run(policy, again, drawn)
    for chosen in filter(_in_one_call, _compiled(exact, policy)):
        run = sampling_run(chosen, prompts, uniforms)
        yield f"Sampling, {describe(chosen.precision)}: {ONE_CALL}", run, plainly(run)
    run = plainly(sampling_run(exact, prompts, uniforms))
    name = f"Sampling, float32, {PLAINLY}: {BY_ONEDNN}"
    yield name, run, without("linear._ONEDNN", False, run)
    run = plainly(sampling_run(policy, prompts, uniforms))
    drawn_once = "a token drawn with one random number, not one per word of the vocabulary"
    race = partial(multinomial, torch.Generator())
    yield f"{step}, {PLAINLY}: {drawn_once}", run, without("sampling.inverse_cdf", race, run)

    ending = make_policy(model)
    ending.eos_token_id = policy.vocab_size - 1
    run = sampling_run(ending, prompts, ending_uniforms(uniforms, unequal_lengths(load)))
    name = f"{step}, unequal lengths: rows that have ended leave the batch"
    yield name, run, without("sampling.KEPT_SHARE", 0.0, run)


def training_changes(model: LlamaForCausalLM, load: Load) -> Iterator[Change]:
    """Yields what makes a training step fast.

    With direct reading go oneDNN's products, prompts read once and the batch without padding, which
    hang on it; the second row leaves all three out on either side. Where padding is read like text,
    lengths are equal and attention is in one piece.
    """
    exact, policy = make_policy(model, "float32"), make_policy(model)
    step = f"Training step, {describe(policy.precision)}"
    equal = random_rollout(load, policy.vocab_size)
    unequal = random_rollout(load, policy.vocab_size, unequal_lengths(load))
    alone = _shortened(replace(load, prompts=load.rows, samples=1))

    run = training_run(exact, equal)
    plain = training_run(exact, filled(random_rollout(alone, policy.vocab_size)))
    plain = without("linear._ONEDNN", False, plain)
    yield f"Training step, {DIRECT}", run, without("policy.read", no_decoder, run)
    yield f"Training step, {DIRECT}, {ALONE}", plain, without("policy.read", no_decoder, plain)
    yield f"Training step, float32: {BY_ONEDNN}", run, without("linear._ONEDNN", False, run)

    for chosen in _compiled(exact, policy):
        run = training_run(chosen, equal)
        yield f"Training step, {describe(chosen.precision)}: {COMPILED}", run, plainly(run)
    run = training_run(policy, equal)
    name = f"{step}: prompts of {load.prompt_tokens} tokens read once, not per sample"
    yield name, run, without("branches.distinct_rows", every_row, run)
    name = f"{step}: log-probabilities without a second copy of the logits"
    yield name, run, without("policy.token_logprobs", log_softmax_gather, run)

    run = training_run(policy, unequal)
    name = f"{step}, unequal lengths: padding left out, not read like text"
    yield name, run, training_run(policy, filled(unequal))
    run = plainly(run)
    in_pieces = "unequal lengths: attention in pieces of like length, not in one"
    yield f"{step}, {PLAINLY}, {in_pieces}", run, without("attention.PIECES", 1, run)


def precision_changes(width: int, load: Load) -> Iterator[Change]:
    """Yields bfloat16 products for float32 ones, at a hidden size that is a multiple of 32."""
    heads = width // 32
    model = make_model(
        hidden_size=width,
        intermediate_size=5 * width // 2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    short, exact = make_policy(model, "bfloat16"), make_policy(model, "float32")
    words = f"width {width}: products in bfloat16, not float32"
    prompts, uniforms = random_prompts(load, short.vocab_size), uniform_numbers(load)
    run, peer = (sampling_run(policy, prompts, uniforms) for policy in (short, exact))
    yield f"Sampling, {words}", run, peer
    rollout = random_rollout(load, short.vocab_size)
    yield f"Training step, {words}", training_run(short, rollout), training_run(exact, rollout)


def without(target: str, replacement: Any, run: Run) -> Run:
    """Returns the run with a name within `textgym.models` standing for something else.

    Such as `without("attention.PIECES", 1, run)`. The run raises AttributeError where no such name
    is, so that nothing is ever measured against itself.
    """

    def changed() -> Any:
        with mock.patch(f"textgym.models.{target}", replacement):
            return run()

    return changed


def _compiled(*policies: Policy) -> Iterable[Policy]:
    """Returns the policies whose steps are compiled, one of each precision."""
    if library() is None:
        return ()
    return {policy.precision: policy for policy in policies}.values()


def _in_one_call(policy: Policy) -> bool:
    """Returns whether the policy's steps of decoding are compiled as a whole."""
    decoder = policy.decoder()
    return decoder is not None and fits(decoder)


def plainly(run: Run) -> Run:
    """Returns the run without compiled steps."""
    return without("compiled.library.ENABLED", False, run)


def sampling_run(policy: Policy, prompts: tuple[Tensor, ...], uniforms: Tensor) -> Run:
    """Returns a run of `sample_tokens` on ids and mask [N, P], the same each time."""
    ids, mask = prompts
    return partial(sample_tokens, policy, ids, mask, uniforms, Sampling())


def training_run(policy: Policy, rollout: Rollout) -> Callable[[], Tensor]:
    """Returns a run of the passes of a policy gradient step; the optimiser is left out.

    They are the reference's, without gradients, and the policy's forward and backward. The run
    returns the policy's log-probabilities [B, T], nats, and leaves gradients in its weights.
    """
    reference = policy.copy("reference").freeze()
    rewards = torch.linspace(-1, 1, len(rollout)).unsqueeze(1)

    def run() -> Tensor:
        with torch.no_grad():
            expected = reference.logprobs(rollout)
        logprobs = policy.logprobs(rollout)
        advantages = rewards - KL_COEF * (logprobs.detach() - expected)
        loss = policy_gradient_loss(logprobs, advantages, rollout.response_mask)
        policy.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        return logprobs.detach()

    return run


def unequal_lengths(load: Load, seed: int = 0) -> Tensor:
    """Returns [B] int64 lengths from 1 to T: a response ends after each token by chance.

    The chance is EARLY_ENDS / T, so they are geometric, and cut at T.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.empty(load.rows, dtype=torch.int64)
    lengths.geometric_(min(1.0, EARLY_ENDS / load.response_tokens), generator=generator)
    return lengths.clamp(max=load.response_tokens)


def random_rollout(
    load: Load, vocab_size: int, lengths: Tensor | None = None, seed: int = 0
) -> Rollout:
    """Returns a rollout of random tokens, without texts.

    Args:
        load: its sizes; the prompts are those of `random_prompts`.
        vocab_size: V.
        lengths: [B] int64 of the responses, all T by default.
        seed: of prompts and responses.
    """
    ids, mask = random_prompts(load, vocab_size, seed)
    shape = load.rows, load.response_tokens
    generator = torch.Generator().manual_seed(seed)
    heard = torch.ones(shape, dtype=torch.bool)
    if lengths is not None:
        heard = torch.arange(load.response_tokens) < lengths.unsqueeze(1)
    return Rollout(
        prompts=[""] * load.rows,
        completions=[""] * load.rows,
        columns={},
        samples_per_prompt=load.samples,
        prompt_ids=ids.repeat_interleave(load.samples, dim=0),
        prompt_mask=mask.repeat_interleave(load.samples, dim=0),
        response_ids=torch.randint(vocab_size, shape, generator=generator),
        response_mask=heard,
        policy_logprobs=torch.zeros(shape),
        sampling_logprobs=torch.zeros(shape),
        truncated=torch.ones(load.rows, dtype=torch.bool),
    )


def filled(rollout: Rollout) -> Rollout:
    """Returns the rollout with its padding taken for text: the work of a padded batch."""
    return replace(
        rollout,
        prompt_mask=torch.ones_like(rollout.prompt_mask),
        response_mask=torch.ones_like(rollout.response_mask),
    )


def every_row(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what `distinct_rows` does, with every row a prompt of its own."""
    return ids.masked_fill(~mask, -1), torch.arange(len(ids), device=ids.device)


def log_softmax_gather(logits: Tensor, ids: Tensor) -> Tensor:
    """Returns what `token_logprobs` does, from the log-probabilities of all tokens."""
    return logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def multinomial(generator: torch.Generator, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draws in place of `inverse_cdf`, from the generator and not by the uniforms."""
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def no_decoder(model: Any) -> None:
    """Stands for `read` where no model is read directly."""


def _shortened(load: Load) -> Load:
    """Returns the load with a third of its response tokens, for rows that would take long."""
    return replace(load, response_tokens=-(-load.response_tokens // 3))


def uniform_numbers(load: Load, seed: int = 0) -> Tensor:
    """Returns [B, T] float64 in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    shape = load.rows, load.response_tokens
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def ending_uniforms(uniforms: Tensor, lengths: Tensor) -> Tensor:
    """Returns uniforms that draw the last token of the vocabulary at a response's end only.

    Tokens are drawn by the inverse of their cumulative probability, so the greatest uniforms draw
    the last. A random model gives it far less than one part in a hundred.
    """
    last = torch.arange(uniforms.shape[1]) == lengths.unsqueeze(1) - 1
    return (0.99 * uniforms).masked_fill(last, 1 - 1e-9)
