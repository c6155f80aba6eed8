"""Texts to padded token ids and back, for any Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import resources
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ModelError, PromptTooLongError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TINY = "tiny"
"""The name of the language model that ships with the package."""

PACKAGED = {TINY: "lm", "town": "town_lm"}
"""Names of the language models that ship with the package, and their folders in the assets: one of
reports and a forum, one of the town that answers, passes on news, reviews and tells stories."""

CONFIGS = ("config.json", "tokenizer.json", "tokenizer_config.json")
END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"


def resolve(name_or_path: str | Path) -> str:
    """Returns where a model lies: the packaged folder for "tiny" or "town", else what was given.

    Raises: ModelError when a path that can only be a folder does not exist.
    """
    name = str(name_or_path)
    if name in PACKAGED:
        name = str(resources.files("textgym.assets").joinpath(PACKAGED[name]))
        if not Path(name, "config.json").is_file():
            raise ModelError(f"the packaged language model is missing: no config.json in {name}")
        return name
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"no language model at {name}: no such folder")
    return name


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the progress bars of `transformers`, which a model of a second's loading needs not."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_pretrained(loader: Any, name_or_path: str | Path, what: str, **options: Any) -> Any:
    """Returns `loader.from_pretrained(...)`; whatever goes wrong becomes a ModelError of one line.

    A local folder is read without the network, and code that comes with a model is never run.

    Args:
        loader: an Auto class of transformers.
        name_or_path: "tiny", a folder or a Hub id.
        what: what is expected there, for the error message.
        options: passed on.
    """
    path = resolve(name_or_path)
    local = Path(path).exists()
    if Path(path).is_file():
        raise ModelError(f"no {what} at {path}: it is a file, expected a folder or a Hub id")
    if local and not any(Path(path, name).is_file() for name in CONFIGS):
        raise ModelError(f"no {what} in {path}: the folder has none of {', '.join(CONFIGS)}")
    try:
        with quiet() if local else nullcontext():  # a download is worth a bar
            return loader.from_pretrained(
                path, local_files_only=local, trust_remote_code=False, **options
            )
    except Exception as error:
        # transformers raises anything from OSError to KeyError here, often over many lines.
        cause = " ".join(str(error).split())[:300]
        raise ModelError(f"no {what} at {path}: {type(error).__name__}: {cause}") from error


def load_tokenizer(
    name_or_path: str | Path = TINY, *, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer that has both an EOS and a pad token.

    A missing pad token becomes EOS; masks, never pad ids, say what is padding.

    Args:
        name_or_path: "tiny" for the packaged one, a folder, or a Hub id.
        revision: commit, branch or tag of a Hub id.

    Raises:
        ModelError: no tokenizer there, or one without an EOS token.
    """
    from transformers import AutoTokenizer

    options = {} if revision is None else {"revision": revision}
    tokenizer = load_pretrained(AutoTokenizer, name_or_path, "tokenizer", **options)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer at {name_or_path} has no EOS token, which ends responses")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Returns each prompt's token ids as the model expects them at the start of its window.

    The tokenizer's own BOS is kept and an EOS that it appends is dropped, since a response is to
    follow. An empty prompt becomes its BOS (or EOS) token: a model needs something to condition on.
    """
    eos = tokenizer.eos_token_id
    start = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    rows = []
    for ids in tokenizer(list(prompts))["input_ids"] if len(prompts) else []:
        if len(ids) > 1 and ids[-1] == eos:
            ids = ids[:-1]
        rows.append(ids or [start])
    return rows


def completion_token_ids(
    tokenizer: PreTrainedTokenizerBase, completions: Sequence[str]
) -> list[list[int]]:
    """Returns each completion's token ids, no special tokens around them except EOS at the end."""
    if not len(completions):
        return []
    rows = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in rows]


def pad(
    rows: Sequence[Sequence[int]], value: int, *, side: str, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Pads rows of token ids to one width.

    Args:
        rows: R lists of token ids.
        value: the id to pad with.
        side: "left" or "right".
        width: columns of the result; the longest row by default.

    Returns:
        Ids [R, width] int64 and mask [R, width] bool, True on the rows' own tokens.
    """
    width = max((len(row) for row in rows), default=0) if width is None else width
    ids = torch.full((len(rows), width), value, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.int64)
        mask[i, where] = True
    return ids, mask


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_prompt_tokens: int
) -> tuple[Tensor, Tensor]:
    """Encodes prompts, left-padded to the longest of them.

    Args:
        tokenizer: from `load_tokenizer`.
        prompts: N texts.
        max_prompt_tokens: the window kept for the prompt, tokens.

    Returns:
        Ids [N, P] int64 and mask [N, P] bool.

    Raises:
        PromptTooLongError: a prompt has more tokens than the window.
    """
    rows = prompt_token_ids(tokenizer, prompts)
    for i, row in enumerate(rows):
        if len(row) > max_prompt_tokens:
            raise PromptTooLongError(
                f"prompt {i} has {len(row)} tokens, the limit is {max_prompt_tokens}: "
                f"{prompts[i][:40]!r}"
            )
    return pad(rows, tokenizer.pad_token_id, side="left")


def decode_responses(tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor) -> list[str]:
    """Decodes responses, special tokens removed, spaces as the tokens have them.

    Args:
        tokenizer: from `load_tokenizer`.
        ids: [B, T] int64.
        mask: [B, T] bool; only tokens where it is True are decoded, whatever the pad id.

    Returns:
        B texts.
    """
    rows = [
        tuple(compress(row, keep))
        for row, keep in zip(ids.tolist(), mask.bool().tolist(), strict=True)
    ]
    # A trained policy repeats itself, and decoding costs far more than looking up.
    texts = {
        row: tokenizer.decode(
            list(row), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        for row in set(rows)
    }
    return [texts[row] for row in rows]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Trains a byte-level BPE tokenizer; the same texts always give the same tokenizer.

    Ids 0 and 1 are the special tokens `<|endoftext|>` (EOS) and `<|pad|>`; no BOS is used.

    Args:
        texts: what to learn merges from.
        vocab_size: tokens in all, at least 258 (256 bytes and 2 special tokens).

    Raises:
        ModelError: a vocabulary too small to hold every byte.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 258:
        raise ModelError(f"vocab_size must be at least 258 (every byte), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
