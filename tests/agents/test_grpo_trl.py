"""The losses of GRPO and RLOO, and their gradients, against TRL's on the same tensors.

TRL's trainers get fixed completions and do the rest themselves: log-probabilities, rewards,
baselines, KL and loss. Ours get the same tokens. Where the two are meant to coincide:

- GRPO: aggregation `sequence`, `token`, `constant` is TRL's `loss_type` grpo, bnpo, dr_grpo;
  `scale` is `scale_rewards`, `clip` and `clip_high` are `epsilon` and `epsilon_high`,
  `kl_ratio_correction` is `use_bias_correction_kl`, which TRL has on and the paper has not.
- RLOO: TRL's defaults are conventions `trl` without an EOS rule, on the policy that sampled.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from textgym.agents import grpo, reinforce
from textgym.agents.grpo import GRPOConfig
from textgym.agents.rloo import RLOO, RLOOConfig
from textgym.functional import grpo_advantages
from textgym.models.policy import Policy, load_policy
from textgym.models.tokenize import quiet
from textgym.seeding import Streams
from textgym.types import Budget, Rollout

pytest.importorskip("trl")
# TRL asks transformers by names that the next version of transformers drops.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PROMPTS = ["say 1:", "say 2: a b"]
COMPLETIONS = ["a b a", "b", "c d e f g", "a", "a b", "g g", "f e d", "b a b a"]
REWARDS = {text: float(i * i % 7) for i, text in enumerate(COMPLETIONS)}
BETA, LIMIT = 0.1, 12


def reward(completions, **_):
    return [REWARDS[text] for text in completions]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A model with weights large enough for probabilities that differ."""
    policy = load_policy(model)
    perturb(policy, seed=1)
    folder = tmp_path_factory.mktemp("trl")
    policy.save(folder)
    return folder


def perturb(policy, seed, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def make_trainer(name, folder, monkeypatch, **options):
    """TRL's trainer of a policy that has left its reference, and the batch it makes of our texts.

    Its reference is the model in the folder.
    """
    import trl
    from datasets import Dataset

    arguments = {"max_completion_length": LIMIT, "num_generations": 4, "beta": BETA, **options}
    with torch.random.fork_rng(), quiet():
        policy = load_policy(folder)
        trainer = getattr(trl, f"{name}Trainer")(
            policy.model,
            reward,
            getattr(trl, f"{name}Config")(
                output_dir=str(folder / "out"),
                per_device_train_batch_size=8,
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to="none",
                **arguments,
            ),
            Dataset.from_dict({"prompt": PROMPTS}),
            processing_class=policy.tokenizer,
        )
    perturb(policy, seed=2, size=0.05)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_: generated(policy, name))
    rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(4)]
    return trainer, trainer._generate_and_score_completions(rows)


def generated(policy, name):
    ids = [
        [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], policy.eos_token_id]
        for text in COMPLETIONS
    ]
    return ids if name == "RLOO" else (ids, None)


def ours(trainer, batch, old=None):
    """Our policy over the trainer's very weights, and the rollout of its batch."""
    policy = Policy(trainer.model, trainer.processing_class)
    mask = batch["completion_mask"].bool()
    samples = Rollout(
        prompts=[prompt for prompt in PROMPTS for _ in range(4)],
        completions=COMPLETIONS,
        columns={},
        samples_per_prompt=4,
        prompt_ids=batch["prompt_ids"],
        prompt_mask=batch["prompt_mask"].bool(),
        response_ids=batch["completion_ids"],
        response_mask=mask,
        policy_logprobs=torch.zeros(mask.shape),
        sampling_logprobs=torch.zeros(mask.shape),
        truncated=torch.zeros(8, dtype=torch.bool),
        rewards=torch.tensor(reward(COMPLETIONS)),
    )
    with torch.no_grad():
        logprobs = policy.logprobs(samples) if old is None else old
    return policy, replace(samples, policy_logprobs=logprobs, sampling_logprobs=logprobs)


def with_gradient(loss, parameters):
    return [loss.detach(), *torch.autograd.grad(loss, list(parameters))]


def assert_equal(mine, theirs):
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert max(float(x.abs().max()) for x in mine[1:]) > 1e-2


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"kl_ratio_correction": False}, {"use_bias_correction_kl": False}),
        ({"kl_ratio_correction": True}, {}),
        ({"kl_ratio_correction": True, "aggregation": "token"}, {"loss_type": "bnpo"}),
        (
            {"kl_ratio_correction": True, "aggregation": "constant", "scale": "none"},
            {"loss_type": "dr_grpo", "scale_rewards": "none"},
        ),
        (
            {"kl_ratio_correction": True, "clip": 0.1, "clip_high": 0.3},
            {"epsilon": 0.1, "epsilon_high": 0.3},
        ),
    ],
)
def test_grpo_is_trls(mine, theirs, off_policy, folder, monkeypatch):
    trainer, batch = make_trainer("GRPO", folder, monkeypatch, **{"loss_type": "grpo", **theirs})
    old = None
    if off_policy:
        noise = torch.randn(
            batch["completion_ids"].shape, generator=torch.Generator().manual_seed(3)
        )
        old = ours(trainer, batch)[1].policy_logprobs + 0.3 * noise
        batch["old_per_token_logps"] = old
    policy, samples = ours(trainer, batch, old)
    config = GRPOConfig(kl_coef=BETA, **mine)
    setup = SimpleNamespace(policy=policy, task=SimpleNamespace(max_response_tokens=LIMIT))
    advantages = grpo.ADVANTAGES[config.scale](samples.rewards, 4)
    torch.testing.assert_close(advantages, batch["advantages"], atol=1e-5, rtol=1e-5)
    reference = reference_logprobs(folder, samples)

    loss, log = grpo._loss(setup, config, samples, reference, advantages)
    their_loss = trainer._compute_loss(trainer.model, batch)
    parameters = list(trainer.model.parameters())
    assert_equal(with_gradient(loss, parameters), with_gradient(their_loss, parameters))
    # The KL counts, and off the policy so does the clip.
    assert BETA * log["kl_loss"] > 1e-4
    assert (log["clip_fraction"] > 0.05) == off_policy


def test_trls_default_loss_is_the_token_mean(folder, monkeypatch):
    # Where nothing is accumulated: `dapo` divides by the tokens of all micro-batches.
    trainer, batch = make_trainer("GRPO", folder, monkeypatch)
    assert trainer.loss_type == "dapo"
    policy, samples = ours(trainer, batch)
    setup = SimpleNamespace(policy=policy, task=SimpleNamespace(max_response_tokens=LIMIT))
    config = GRPOConfig(kl_coef=BETA, aggregation="token", kl_ratio_correction=True)
    advantages = grpo_advantages(samples.rewards, 4)
    reference = reference_logprobs(folder, samples)
    loss, _ = grpo._loss(setup, config, samples, reference, advantages)
    their_loss = trainer._compute_loss(trainer.model, batch)
    parameters = list(trainer.model.parameters())
    assert_equal(with_gradient(loss, parameters), with_gradient(their_loss, parameters))


def test_rloo_is_trls(folder, monkeypatch):
    trainer, batch = make_trainer("RLOO", folder, monkeypatch)
    policy, samples = ours(trainer, batch)
    reference = reference_logprobs(folder, samples)
    seen = []

    def capture(optimizer, loss, step, max_grad_norm):
        seen.append(with_gradient(loss, policy.model.parameters()))
        return 0.0

    monkeypatch.setattr(reinforce, "collect", lambda *_: (samples, reference))
    monkeypatch.setattr(reinforce, "optimiser_step", capture)
    budget = Budget(8)
    config = RLOOConfig(
        kl_coef=BETA, conventions="trl", eos_rule="none", prompts_per_step=2, samples_per_prompt=4
    )
    RLOO(config).train(
        SimpleNamespace(
            task=SimpleNamespace(prompts=lambda _: Rows(), max_response_tokens=LIMIT),
            policy=policy,
            reference=None,
            budget=budget,
            streams=Streams(0),
            log=lambda *_: budget.spend(8),
        )
    )
    (mine,) = seen
    their_loss = trainer._compute_loss(trainer.model, batch)
    theirs = with_gradient(their_loss, trainer.model.parameters())
    # By definition, theirs is the surrogate -A pi / pi_old and ours -A log pi: on the policy that
    # sampled they have one gradient, while the values are -A and -A log pi.
    assert_equal([theirs[0], *mine[1:]], theirs)
    advantages, logp = batch["advantages"], samples.policy_logprobs.sum(1)
    assert mine[0].item() == pytest.approx(-(advantages * logp).mean().item(), abs=1e-5)
    assert theirs[0].item() == pytest.approx(-advantages.mean().item(), abs=1e-5)
    # The KL is part of what TRL's baseline is taken from.
    without = (
        samples.rewards
        - (4 * samples.rewards.view(2, 4).mean(1).repeat_interleave(4) - samples.rewards) / 3
    )
    assert (advantages - without).abs().max() > 1e-2


class Rows:
    def __len__(self):
        return 2

    def select(self, _):
        return self


def reference_logprobs(folder, samples):
    with torch.no_grad():
        return load_policy(folder).logprobs(samples)
