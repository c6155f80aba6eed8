"""Pretraining of a small Llama on an endless stream of documents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ConfigError
from textgym.models.checkpoint import load_training_state, save_training_state
from textgym.models.documents import Documents, batches, token_rows
from textgym.models.progress import progress_bar, write_curve
from textgym.models.tokenize import pad, quiet, train_tokenizer
from textgym.models.training import adamw, optimiser_step, warmup_cosine

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class PretrainConfig:
    """The size of the model and how it is trained.

    Attributes:
        width: hidden size.
        layers: transformer blocks.
        heads: attention heads.
        kv_heads: key-value heads; fewer than `heads` shrinks the cache.
        intermediate: width of the gated MLP.
        tied: whether the head is the embeddings' matrix.
        vocab_size: tokens of the BPE tokenizer, where one is trained.
        tokenizer_texts: documents that the tokenizer is trained on.
        context: longest row, tokens; the model's window.
        tokens: training tokens in all, padding not counted.
        batch_tokens: tokens per optimiser step, padding counted.
        lr: peak learning rate, reached after a warm-up and left on a cosine.
        weight_decay: AdamW's, on matrices.
        betas: AdamW's.
        max_grad_norm: the gradient's global norm is clipped to this.
        bfloat16: compute in bfloat16 under autocast, which pays on accelerators and for wide
            models but not at width 128 on a CPU; the weights stay float32.
        seed: of the initialisation and of the documents.
    """

    width: int = 128
    layers: int = 4
    heads: int = 8
    kv_heads: int = 8
    intermediate: int = 384
    tied: bool = True
    vocab_size: int = 1024
    tokenizer_texts: int = 20_000
    context: int = 256
    tokens: int = 10_000_000
    batch_tokens: int = 2048
    lr: float = 3e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "kv_heads", "intermediate", "context", "tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ConfigError(
                f"width must be a multiple of heads and heads of kv_heads, got "
                f"{self.width}, {self.heads}, {self.kv_heads}"
            )
        if not self.lr > 0:
            raise ConfigError(f"lr must be > 0, got {self.lr}")


def make_llama(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Returns a randomly initialised Llama with tied embeddings, the same for the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    # transformers holds the pad token's embedding at 0, which an EOS that is read must not be.
    pads_with_eos = tokenizer.pad_token_id == tokenizer.eos_token_id
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=config.tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None if pads_with_eos else tokenizer.pad_token_id,
    )
    # transformers initialises from the global generator; the fork gives it back untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(llama)


def causal_loss(model: Any, ids: Tensor, mask: Tensor, bfloat16: bool = False) -> Tensor:
    """Returns the mean cross-entropy over predicted tokens, nats.

    Rows are right-padded, so that causal attention alone keeps padding out of sight.

    Args:
        model: a causal language model.
        ids: [R, L] int64.
        mask: [R, L] bool, True on the tokens to learn.
        bfloat16: run under autocast.
    """
    device = next(model.parameters()).device
    ids, labels = ids.to(device), ids.masked_fill(~mask, -100).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        loss: Tensor = model(input_ids=ids, labels=labels, use_cache=False).loss
    return loss


@torch.no_grad()
def held_out_loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context: int
) -> dict[str, float]:
    """Returns what `texts` cost the model, given each row's first token, which nothing predicts.

    Returns:
        `nats_per_document` (EOS included), `nats_per_token`, `documents`, `tokens`.
    """
    rows = sorted(token_rows(tokenizer, texts, context), key=len)
    nats, tokens = 0.0, 0
    for start in range(0, len(rows), 64):
        ids, mask = pad(rows[start : start + 64], tokenizer.pad_token_id, side="right")
        predicted = int(mask[:, 1:].sum())
        nats += causal_loss(model, ids, mask).item() * predicted
        tokens += predicted
    return {
        "nats_per_document": nats / len(texts),
        "nats_per_token": nats / max(tokens, 1),
        "documents": float(len(texts)),
        "tokens": float(tokens),
    }


def pretrain(
    documents: Documents,
    config: PretrainConfig,
    out: str | Path,
    *,
    held_out: Sequence[str] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    sample_prompts: Sequence[str] = (),
    weights_dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    evaluations: int = 10,
    progress: bool = True,
    on_evaluation: Callable[[Any, PreTrainedTokenizerBase, int], None] | None = None,
) -> dict[str, Any]:
    """Trains a Llama and saves it so that `AutoModelForCausalLM` loads it from `out`.

    An interrupted run goes on from its last checkpoint when called again with the same arguments
    and ends with the same weights. Deterministic for a seed on one machine and thread count.

    Args:
        documents: seed -> endless stream of texts (see `textgym.models.documents.cycle`).
        config: model size and training settings.
        out: folder for weights, tokenizer, `loss.csv` (and `loss.png` with matplotlib),
            `summary.json`; made if missing.
        held_out: texts that are never trained on, for the held-out loss.
        tokenizer: use this one instead of training one on the first documents.
        sample_prompts: prompts whose completions are shown at every evaluation.
        weights_dtype: what the weights are saved in.
        device: where to train; another device's arithmetic gives another model.
        evaluations: how often held-out loss, samples and a checkpoint are made.
        progress: show a progress bar, losses and samples on the terminal.
        on_evaluation: called with (model, tokenizer, tokens seen) at every evaluation.

    Returns:
        The summary: parameters, steps, tokens, seconds, tokens_per_second, config and, where there
        are such texts, held_out (see `held_out_loss`) of the weights as they were saved.

    Raises:
        ConfigError: a checkpoint of other settings lies in `out`.
        TrainingError: the loss or gradient is not finite.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        tokenizer = train_tokenizer(
            islice(documents(config.seed), config.tokenizer_texts), config.vocab_size
        )
    model = make_llama(config, tokenizer).to(device).train()
    run = _Run(model, tokenizer, config, out)
    run.resume()
    stream = batches(
        documents,
        tokenizer,
        seed=config.seed,
        context=config.context,
        batch_tokens=config.batch_tokens,
    )
    start, seconds_before = time.perf_counter(), run.seconds
    every = max(1, config.tokens // max(evaluations, 1))
    next_evaluation = (run.tokens // every + 1) * every
    with progress_bar(config.tokens, progress) as bar:
        for ids, mask in islice(stream, run.step, None):
            if run.tokens >= config.tokens:
                break
            run.train_step(ids, mask)
            run.seconds = seconds_before + time.perf_counter() - start
            bar.show(run.tokens, run.curve[-1]["loss"], run.tokens / run.seconds)
            if run.tokens >= min(next_evaluation, config.tokens):
                next_evaluation += every
                model.eval()
                run.evaluate(held_out, sample_prompts, bar.print)
                if on_evaluation is not None:
                    on_evaluation(model, tokenizer, run.tokens)
                model.train()
                run.save_checkpoint()
    return run.finish(held_out, weights_dtype)


class _Run:
    """The state of one pretraining run: what a checkpoint holds."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, config: PretrainConfig, out: Path
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.out = out
        self.optimizer = adamw(model.parameters(), config.lr, config.weight_decay, config.betas)
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []

    def train_step(self, ids: Tensor, mask: Tensor) -> None:
        """Takes one optimiser step and books it."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * warmup_cosine(min(1.0, self.tokens / config.tokens))
        loss = causal_loss(self.model, ids, mask, config.bfloat16)
        norm = optimiser_step(self.optimizer, loss, self.step, config.max_grad_norm)
        self.step += 1
        self.tokens += int(mask.sum())
        self.curve.append(
            {"step": self.step, "tokens": self.tokens, "loss": loss.item(), "grad_norm": norm}
        )

    def evaluate(
        self, held_out: Sequence[str], prompts: Sequence[str], show: Callable[[str], None]
    ) -> None:
        """Shows the held-out loss and sample texts."""
        if len(held_out):
            losses = held_out_loss(self.model, self.tokenizer, held_out, self.config.context)
            self.curve[-1]["held_out"] = losses["nats_per_token"]
            show(
                f"{self.tokens:,} tokens: held out {losses['nats_per_token']:.4f} nats per token, "
                f"{losses['nats_per_document']:.2f} per document"
            )
        for prompt in prompts:
            show(f"{prompt!r} -> {self.sample(prompt)!r}")

    def sample(self, prompt: str) -> str:
        """Returns one sampled completion of `prompt`, the same at every evaluation's weights."""
        from textgym.models.policy import Policy
        from textgym.models.sampling import complete

        policy = Policy(self.model, self.tokenizer)
        generator = torch.Generator().manual_seed(self.config.seed)
        return complete(policy, [prompt], self.config.context, generator)[0]

    def save_checkpoint(self) -> None:
        """Writes what `resume` needs."""
        progress = {
            "config": asdict(self.config),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        save_training_state(self.out / CHECKPOINT, self.model, self.optimizer, progress)

    def resume(self) -> None:
        """Goes on from the checkpoint in `out`, if there is one. Raises: ConfigError."""
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        progress = load_training_state(path, self.model, self.optimizer, asdict(self.config))
        self.step, self.tokens = progress["step"], progress["tokens"]
        self.seconds, self.curve = progress["seconds"], progress["curve"]

    def finish(self, held_out: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
        """Saves model, tokenizer, loss curve and summary; removes the checkpoint."""
        self.model.eval()
        summary: dict[str, Any] = {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9)),
            "config": asdict(self.config),
        }
        self.model.to(dtype)
        with quiet():
            self.model.save_pretrained(self.out)
        self.tokenizer.save_pretrained(self.out)
        self.model.float()
        if len(held_out):
            # After the round trip through `dtype`: the loss of what was saved.
            summary["held_out"] = held_out_loss(
                self.model, self.tokenizer, held_out, self.config.context
            )
        write_curve(self.curve, self.out)
        (self.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (self.out / CHECKPOINT).unlink(missing_ok=True)
        return summary
