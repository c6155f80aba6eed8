"""The losses of DPO, IPO and KTO, and their gradients, against TRL's on the same texts.

TRL's trainers tokenise, pair, pad and compute by themselves. Where the two are meant to coincide:

- DPO is `sigmoid`. `divergence` is `f_divergence_type`; TRL's `f_alpha_divergence_coef` is 1 minus
  the paper's alpha, which is ours.
- IPO with conventions `trl` is `ipo`, the mean over tokens.
- cDPO has no name in TRL, whose `sigmoid` pays no attention to `label_smoothing`. Its `aot` sorts
  a batch's margins before it smooths; on one pair there is nothing to sort, and it is cDPO.
- KTO is `kto` on responses to different prompts. TRL shifts by one response and ours by one prompt:
  where several responses to a prompt stand together, TRL's are not mismatched.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from test_grpo_trl import assert_equal, perturb, with_gradient

from textgym.agents.dpo import DPOConfig, pair_loss
from textgym.agents.ipo import IPOConfig
from textgym.agents.kto import KTOConfig, marked_loss, mismatched
from textgym.models.policy import Policy, load_policy
from textgym.models.tokenize import quiet
from textgym.rollout import encode_texts

pytest.importorskip("trl")
# TRL asks transformers by names that the next version of transformers drops.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PROMPTS = ["say 1:", "say 2: a b", "say 3: c", "say 2:"]
CHOSEN = [" a b a", " b", " c d e f g", " a b"]
REJECTED = [" g", " f e d g", " b a", " b a b a b"]
LABELS = [True, False, False, True]
LIMITS = SimpleNamespace(max_prompt_tokens=16, max_response_tokens=16)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A model with weights large enough for probabilities that differ."""
    policy = load_policy(model)
    perturb(policy, seed=1)
    folder = tmp_path_factory.mktemp("trl")
    policy.save(folder)
    return folder


def make_trainer(name, folder, columns, seed=2, **options):
    """TRL's trainer of a policy that has left its reference, the model in the folder."""
    import trl

    rows = len(columns["prompt"])
    with torch.random.fork_rng(), quiet():
        policy = load_policy(folder)
        trainer = getattr(trl, f"{name}Trainer")(
            model=policy.model,
            args=getattr(trl, f"{name}Config")(
                output_dir=str(folder / "out"),
                per_device_train_batch_size=rows,
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to="none",
                **options,
            ),
            train_dataset=Dataset.from_dict(columns),
            processing_class=policy.tokenizer,
        )
    perturb(policy, seed, size=0.1)
    trainer.model.train()
    return trainer


def theirs(trainer):
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer._compute_loss(trainer.model, batch, False)
    return with_gradient(loss, trainer.model.parameters())


def encoded(trainer, prompts, completions):
    policy = Policy(trainer.model, trainer.processing_class)
    rows = Dataset.from_dict({"prompt": prompts})
    return policy, encode_texts(policy, LIMITS, rows, completions)


def pairs_of(rows):
    columns = {"prompt": PROMPTS, "chosen": CHOSEN, "rejected": REJECTED}
    return {name: [values[i] for i in rows] for name, values in columns.items()}


def our_dpo(trainer, folder, config):
    policy, pairs = encoded(trainer, PROMPTS * 2, CHOSEN + REJECTED)
    with torch.no_grad():
        reference_logprobs = load_policy(folder).logprobs(pairs)
    loss, metrics = pair_loss(config, policy.logprobs(pairs), reference_logprobs, pairs)
    return with_gradient(loss, trainer.model.parameters()), metrics


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (DPOConfig(beta=0.3), {}),
        (DPOConfig(beta=0.3, conventions="trl"), {"loss_type": ["sigmoid"]}),
        (
            DPOConfig(beta=0.3, divergence="forward_kl"),
            {"f_divergence_type": "forward_kl"},
        ),
        (DPOConfig(beta=0.3, divergence="js"), {"f_divergence_type": "js_divergence"}),
        (
            DPOConfig(beta=0.3, divergence="alpha", alpha=0.7),
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
        ),
        (IPOConfig(beta=0.3, conventions="trl"), {"loss_type": ["ipo"]}),
        (
            DPOConfig(beta=0.3, conventions="trl", loss="ipo"),
            {"loss_type": ["ipo"]},
        ),
    ],
)
def test_dpo_and_ipo_are_trls(config, options, folder):
    trainer = make_trainer("DPO", folder, pairs_of(range(4)), beta=0.3, **options)
    mine, metrics = our_dpo(trainer, folder, config)
    assert_equal(mine, theirs(trainer))
    # The policy has left its reference, so that the divergences part.
    assert abs(metrics["margin"]) > 0.1


def test_cdpo_is_trls_aot_pair_by_pair(folder):
    smoothing = 0.2
    plain = make_trainer("DPO", folder, pairs_of(range(4)), beta=0.3, label_smoothing=smoothing)
    unsmoothed, _ = our_dpo(plain, folder, DPOConfig(beta=0.3))
    assert_equal(unsmoothed, theirs(plain))
    single = [
        theirs(
            make_trainer(
                "DPO",
                folder,
                pairs_of([i]),
                beta=0.3,
                loss_type=["aot"],
                label_smoothing=smoothing,
            )
        )
        for i in range(4)
    ]
    means = [torch.stack(parts).mean(0) for parts in zip(*single, strict=True)]
    config = DPOConfig(beta=0.3, label_smoothing=smoothing)
    mine, _ = our_dpo(plain, folder, config)
    assert_equal(mine, means)
    assert abs(float(mine[0] - unsmoothed[0])) > 1e-3


@pytest.mark.parametrize(
    ("weights", "seed", "clamped"),
    [({}, 2, True), ({"desirable_weight": 1.5, "undesirable_weight": 0.5}, 3, False)],
)
def test_kto_is_trls(weights, seed, clamped, folder):
    columns = {"prompt": PROMPTS, "completion": CHOSEN, "label": LABELS}
    trainer = make_trainer("KTO", folder, columns, seed, beta=0.3, **weights)
    policy, samples = encoded(trainer, PROMPTS, CHOSEN)
    reference, others = load_policy(folder), mismatched(samples)
    with torch.no_grad():
        elsewhere = (policy.logprobs(others) - reference.logprobs(others)).sum(1)
        reference_logprobs = reference.logprobs(samples)
    loss, metrics = marked_loss(
        KTOConfig(beta=0.3, **weights),
        policy.logprobs(samples),
        reference_logprobs,
        torch.tensor(LABELS),
        elsewhere,
    )
    assert_equal(with_gradient(loss, trainer.model.parameters()), theirs(trainer))
    # A policy's model is in evaluation mode.
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    assert metrics["z0"] == pytest.approx(logged["kl"], abs=1e-5)
    margin = logged["rewards/margins"] / 0.3
    assert metrics["margin"] == pytest.approx(margin, abs=1e-4)
    assert (metrics["z0"] == 0) == clamped
