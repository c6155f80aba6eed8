"""Toxicity by Detoxify: the shipped tiny classifier, one of your own, or the public ones."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from textgym.errors import ConfigError, ModelError
from textgym.models.tokenize import quiet
from textgym.rewards.batching import buckets, each_once

if TYPE_CHECKING:
    from detoxify import Detoxify

CHECKPOINT = "toxicity.ckpt"
"""The name of the checkpoint inside its folder, beside the Hugging Face config and tokenizer."""

PUBLIC = ("original", "unbiased", "multilingual", "original-small", "unbiased-small")
"""Detoxify's own models, downloaded when named."""

KNOWN_SHA256 = frozenset({"d8e91296d166df7553e8d79f91af8cdfa9a1d847d444ff3752bd8d39562d7a1c"})
"""Digests of the checkpoints that are opened without asking: the shipped one."""

BUCKET_CHARACTERS = 2**14
"""Characters read at once, padding included: a few thousand tokens."""


class Toxicity:
    """Scores texts by `detoxify.Detoxify`; as a reward function it gives 1 - toxicity.

    A Detoxify checkpoint is a pickle. One in a folder is opened only if its SHA-256 is known or
    `trust_checkpoint` is given, and then by PyTorch's restricted reader, which builds tensors and
    plain containers and runs no code. One that needs more can be opened by you: pass the
    `Detoxify` object instead.

    Attributes:
        name: which classifier it is; numbers of different classifiers are not comparable.
        detoxify: the classifier itself.
        bucket_characters: most that are read at once: texts times the longest of them.
    """

    def __init__(
        self,
        checkpoint: str | Path | Detoxify | None = None,
        *,
        trust_checkpoint: bool = False,
        bucket_characters: int = BUCKET_CHARACTERS,
    ) -> None:
        """Loads the classifier.

        Args:
            checkpoint: None for the shipped one; a folder with `toxicity.ckpt` and the Hugging
                Face config and tokenizer; "original", "unbiased", "multilingual" or another
                public name (downloaded); or a `Detoxify` object.
            trust_checkpoint: open a folder's checkpoint although its SHA-256 is not known.
            bucket_characters: most that are read at once: texts times the longest of them.

        Raises:
            ConfigError: a bucket below 1.
            ModelError: no such folder, a checkpoint that is not trusted, or not Detoxify's.
        """
        if bucket_characters < 1:
            raise ConfigError(f"bucket_characters must be >= 1, got {bucket_characters}")
        self.bucket_characters = bucket_characters
        self._last: tuple[list[str], list[float]] = ([], [])
        if checkpoint is None:
            shipped = Path(str(resources.files("textgym.assets").joinpath("toxicity")))
            self.name = "detoxify-tiny"
            self.detoxify: Any = _load_folder(shipped, trusted=False)
        elif not isinstance(checkpoint, str | Path):
            self.name = type(checkpoint).__name__
            self.detoxify = checkpoint
        elif str(checkpoint) in PUBLIC:
            self.name = f"detoxify-{checkpoint}"
            self.detoxify = _load_public(str(checkpoint))
        else:
            self.name = f"detoxify-{Path(checkpoint).resolve().name}"
            self.detoxify = _load_folder(Path(checkpoint), trust_checkpoint)

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Returns each text's toxicity in [0, 1].

        Texts of like length share a batch and equal ones are read once; a score does not depend on
        the batch.
        """
        # A task asks for one batch's toxicity as its reward and again as its measure.
        if list(texts) != self._last[0]:
            self._last = list(texts), each_once(self._predict, texts)
        return list(self._last[1])

    def _predict(self, texts: list[str]) -> list[float]:
        scores = [0.0] * len(texts)
        lengths = [len(text) for text in texts]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        for rows in buckets(order, lengths, self.bucket_characters):
            found = self.detoxify.predict([texts[i] for i in rows])["toxicity"]
            # Detoxify squeezes the scores of a single text to one number.
            for i, score in zip(rows, found if len(rows) > 1 else [found], strict=True):
                scores[i] = float(score)
        return scores

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns 1 - toxicity of each completion, the prompt left out."""
        return [1.0 - score for score in self.scores(completions)]


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_folder(folder: Path, trusted: bool) -> Any:
    """Opens the checkpoint in `folder` by Detoxify itself, without the network."""
    from detoxify import Detoxify

    path = folder / CHECKPOINT
    for needed in (path, folder / "config.json"):
        if not needed.is_file():
            raise ModelError(f"no toxicity classifier in {folder}: it has no {needed.name}")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in KNOWN_SHA256 and not trusted:
        raise ModelError(
            f"{path} is a pickle of unknown SHA-256 {digest[:12]}...; "
            "pass trust_checkpoint=True if you know where it comes from"
        )
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # Detoxify reads this config before it looks at `huggingface_config_path`; a name that is
        # not a folder would send it to the network.
        loaded["config"]["arch"]["args"]["model_type"] = str(folder)
        harmless = io.BytesIO()
        torch.save(loaded, harmless)
        harmless.seek(0)
        with quiet():
            return Detoxify(checkpoint=harmless, huggingface_config_path=str(folder))
    except Exception as error:
        # Unpickling and transformers raise anything here, often over many lines.
        raise ModelError(f"{path} is no Detoxify checkpoint: {_one_line(error)}") from error


def _load_public(name: str) -> Any:
    """Opens one of Detoxify's own models once the file's digest matches the one in its name."""
    from detoxify import Detoxify
    from detoxify.detoxify import MODEL_URLS

    url = MODEL_URLS[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    expected = path.stem.rpartition("-")[2]
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=False)
        if not sha256(path).startswith(expected):
            raise ModelError(f"{path} does not have the SHA-256 {expected}... that its name says")
        with quiet():
            return Detoxify(name)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"cannot load Detoxify's {name!r} model: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
