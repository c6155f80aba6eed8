"""The models that speed is measured on: Llamas of known sizes with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from textgym.models.policy import Policy
from textgym.models.precision import AUTO
from textgym.models.tokenize import END_OF_TEXT, PAD
from textgym.registry import unknown_name

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

YARDSTICK = "yardstick"
FAMILY = ("1m", YARDSTICK, "10m", "30m", "100m")
"""From small to large, about a factor of three apart; all of one vocabulary."""

_COLUMNS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
SIZES: dict[str, dict[str, int]] = {
    name: dict(zip(_COLUMNS, values, strict=True))
    for name, values in {
        "1m": (2048, 128, 320, 4, 4, 4),
        YARDSTICK: (2048, 256, 640, 4, 8, 8),
        "10m": (2048, 384, 1024, 5, 6, 6),
        "30m": (2048, 640, 1728, 6, 10, 10),
        "100m": (2048, 1024, 2752, 8, 16, 16),
        "0.5b": (151936, 896, 4864, 24, 14, 2),
    }.items()
}
"""Llama configurations by name. The yardstick has 3.5M parameters and stands for the models that
TextGym trains; "0.5b" has the sizes of Qwen2.5-0.5B (arXiv 2412.15115) and is for a GPU."""


def make_model(name: str = YARDSTICK, *, seed: int = 0, **sizes: int) -> LlamaForCausalLM:
    """Returns a Llama with random float32 weights, the same for the same seed.

    Input and output embeddings are one matrix. The configuration knows no BOS, EOS or pad token, so
    `generate` always draws as many tokens as it is asked for.

    Args:
        name: one of SIZES.
        seed: of the weights.
        sizes: fields of `LlamaConfig` that replace the named ones.

    Raises:
        UnknownNameError: no such model.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if name not in SIZES:
        raise unknown_name("model", name, SIZES)
    settings: dict[str, Any] = {"max_position_embeddings": 2048, **SIZES[name], **sizes}
    config = LlamaConfig(
        **settings,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    # transformers initialises from the global generator; the fork gives it back untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def make_policy(
    model: LlamaForCausalLM, precision: str = AUTO, device: str | torch.device = "cpu"
) -> Policy:
    """Returns a policy that never ends a response early, so that runs are of equal work.

    Its EOS is no token that the model can draw: see `endless_tokenizer`.

    Args:
        model: from `make_model`; moved to the device, not copied.
        precision: what matrix products are computed in (`textgym.models.precision`).
        device: where the weights go.
    """
    tokenizer = endless_tokenizer(model.config.vocab_size)
    return Policy(model.to(device), tokenizer, "random Llama", precision=precision)


def endless_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of V tokens whose EOS has the id V, one past a model's last row.

    A model of V rows can therefore draw everything but EOS, whatever its weights, and also after
    training or copying. Id 0 is padding, ids 1 to V - 2 are the words "w1", "w2" and so on, and
    id V - 1, which EOS would have had, is drawn like any other and decodes to nothing.

    >>> tokenizer = endless_tokenizer(8)
    >>> len(tokenizer), tokenizer.eos_token_id, tokenizer("w6 w1")["input_ids"]
    (8, 8, [6, 1])
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(1, vocab_size - 1)}
    tokenizer = Tokenizer(models.WordLevel({PAD: 0, **words, END_OF_TEXT: vocab_size}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
