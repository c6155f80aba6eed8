"""vLLM as a policy's sampler, for models too large for the plain loop."""

from __future__ import annotations

import copy
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textgym.errors import ConfigError, ModelError
from textgym.models.lora import merged
from textgym.models.pieces import CHUNK_FLOATS
from textgym.models.policy import Policy
from textgym.models.precision import describe
from textgym.models.sampling import Sampled
from textgym.types import Sampling

MEMORY_SHARE = 0.5
"""Of the GPU's memory, for the engine; the policy and its training need the rest."""
COLDEST = 0.01
"""vLLM draws at this temperature where it is asked for a lower one."""
IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"


class VLLMSampler:
    """Draws a policy's tokens with vLLM (https://docs.vllm.ai), on one GPU and in this process.

    `policy.sampler = VLLMSampler(policy)` is all: rollouts then go through vLLM. It holds a second
    copy of the weights in the policy's precision, and is handed the policy's own at every call: one
    pass over memory, beside one per token of sampling. Nothing cheaper is sure to see each update,
    since torch's fused optimisers do not raise the version counters of what they write.

    Each response is a request of its own, seeded by its row's first uniform number, so it depends
    on no other row, but for rounding: sums are taken in the order that suits the batch, and a draw
    between two tokens can fall to either (vLLM's VLLM_BATCH_INVARIANT=1 excludes it). From the same
    numbers the plain loop draws other tokens.

    Log-probabilities are those vLLM drew at, after temperature and truncation. At the default
    `Sampling` they are the policy's too, otherwise the policy itself computes its own.

    Attributes:
        engine: the `vllm.LLM`.
    """

    def __init__(self, policy: Policy, **engine_options: Any) -> None:
        """Starts the engine.

        Args:
            policy: gives architecture, precision and window.
            engine_options: of `vllm.LLM`, such as `max_num_seqs=64` or `enforce_eager=True`.

        Raises:
            ConfigError: vLLM is not installed, or runs on anything but one GPU.
            ModelError: the policy has no values for some of the weights in vLLM's model.
        """
        self._vllm = _import_vllm()
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if engine_options.get(name, 1) != 1:
                raise ConfigError(f"{name} must be 1, got {engine_options[name]}")
        options = {
            "dtype": describe(policy.precision),
            "max_model_len": policy.max_length,
            "enable_prefix_caching": True,
            "gpu_memory_utilization": MEMORY_SHARE,
        } | engine_options
        with tempfile.TemporaryDirectory() as folder, _in_this_process(policy.device):
            _save_config(policy, folder)
            self.engine = self._vllm.LLM(
                model=folder,
                load_format="dummy",
                skip_tokenizer_init=True,
                logprobs_mode="processed_logprobs",
                **options,
            )
        self.sync(policy)

    def sync(self, policy: Policy) -> None:
        """Hands over the policy's weights, and drops keys and values of the old ones.

        Raises:
            ModelError: the policy has no values for some of the weights in vLLM's model.
        """

        def load(model: Any) -> list[str]:
            loaded = model.load_weights(_weights(policy))
            names = [name for name, _ in model.named_parameters()]
            return [] if loaded is None else [name for name in names if name not in loaded]

        (missing,) = self.engine.apply_model(load)
        if missing:
            raise ModelError(
                f"{policy.name} has no values for {len(missing)} of the weights in vLLM's model, "
                f"such as {missing[0]!r}"
            )
        if self.engine.reset_prefix_cache() is False:
            raise RuntimeError("vLLM kept keys and values of old weights: requests are running")

    @torch.no_grad()
    def sample(
        self,
        policy: Policy,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        uniforms: Tensor,
        sampling: Sampling,
    ) -> Sampled:
        """Does what `sample_tokens` does; of the uniform numbers only each row's first counts.

        Raises:
            ConfigError: a temperature that vLLM would raise without a word.
        """
        if sampling.temperature < COLDEST:
            raise ConfigError(f"vLLM's temperature is >= {COLDEST}, got {sampling.temperature}")
        batch, limit = uniforms.shape
        sampled = Sampled.empty(batch, limit, policy.pad_token_id)
        if batch == 0 or limit == 0:
            return sampled
        self.sync(policy)
        # vLLM's own n = K would make K requests too; they share the prompt through its cache.
        ids, mask = (
            x.cpu().repeat_interleave(batch // len(x), dim=0) for x in (prompt_ids, prompt_mask)
        )
        prompts = [
            {"prompt_token_ids": row[real].tolist()} for row, real in zip(ids, mask, strict=True)
        ]
        requests = [
            self._request(policy.eos_token_id, limit, sampling, u) for u in uniforms[:, 0].tolist()
        ]
        for row, answer in enumerate(self.engine.generate(prompts, requests, use_tqdm=False)):
            _book(sampled, row, answer.outputs[0])
        sampled.policy_logprobs = sampled.sampling_logprobs.clone()
        if sampling != Sampling():
            sampled.policy_logprobs = _policy_logprobs(policy, ids, mask, sampled)
        return sampled

    def _request(self, eos_token_id: int, limit: int, sampling: Sampling, uniform: float) -> Any:
        """Returns one response's parameters: nothing ends it but the policy's EOS and the limit."""
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=limit,
            ignore_eos=True,
            stop_token_ids=[eos_token_id],
            seed=int(uniform * 2**53),
            logprobs=0,
            detokenize=False,
        )


def _import_vllm() -> Any:
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError("vLLM is not installed: pip install 'textgym[vllm]'") from error
    if current_platform.is_cpu():
        raise ConfigError("vLLM repacks its weights on a CPU and takes no others: use a GPU")
    return vllm


@contextmanager
def _in_this_process(device: torch.device) -> Iterator[None]:
    """Has vLLM start in this process, and undoes that it seeds the global generators there."""
    before = os.environ.get(IN_PROCESS)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    os.environ[IN_PROCESS] = "0"
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        os.environ.pop(IN_PROCESS)
        if before is not None:
            os.environ[IN_PROCESS] = before


def _save_config(policy: Policy, folder: str) -> None:
    """Writes what vLLM builds its model from: no weights, as those are handed over."""
    config = copy.deepcopy(policy.model.config)
    config.architectures = [type(policy.model).__name__]
    config.vocab_size = policy.vocab_size
    config.save_pretrained(folder)


def _weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Yields each weight once, tied or not, under its name in a checkpoint, adapters merged.

    Rows of the head that no token has are cut off, so that they cannot be drawn.
    """
    model = merged(policy.model)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    by_token = {id(parameter) for end in ends for parameter in end.parameters()}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        yield name, weight[: policy.vocab_size] if id(parameter) in by_token else weight


def _book(sampled: Sampled, row: int, response: Any) -> None:
    """Books one of vLLM's responses, which hold the token that ended them."""
    tokens = list(response.token_ids)
    chosen = [found[token].logprob for token, found in zip(tokens, response.logprobs, strict=True)]
    sampled.ids[row, : len(tokens)] = torch.tensor(tokens)
    sampled.mask[row, : len(tokens)] = True
    sampled.sampling_logprobs[row, : len(tokens)] = torch.tensor(chosen)


def _policy_logprobs(policy: Policy, ids: Tensor, mask: Tensor, sampled: Sampled) -> Tensor:
    """Returns [B, T] log-probabilities under the policy itself, in pieces of CHUNK_FLOATS."""
    rows = max(1, CHUNK_FLOATS // (sampled.ids.shape[1] * policy.vocab_size))
    pieces = (torch.split(x, rows) for x in (ids, mask, sampled.ids, sampled.mask))
    return torch.cat([policy.token_logprobs(*x).cpu() for x in zip(*pieces, strict=True)])
