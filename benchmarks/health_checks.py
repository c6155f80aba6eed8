"""What the health checks of a cell are called, when they fire, what from, and what to do.

The rules are in `health_signs`, what they look at in `health`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SIGMAS = 3.0
"""Standard errors that a mean must be off; with few prompts more, at the same odds."""
NEGLIGIBLE_KL = 0.01
"""Nats of negative KL that rounding is granted."""
OFF_SHARE = 0.001
"""Share of tokens that may be off: a top-p's border may fall either side of a token."""
CONSTANT_SHARE = 0.95
"""Share of prompts whose samples all have one reward."""
MORE_TRUNCATED, MORE_DUPLICATES = 0.2, 0.4
"""How much a rate may rise. Agents that write better answers repeat themselves more: on the
embedded tasks, healthy ones by up to 0.3."""
CORRELATION, LENGTH_CHANGE = 0.5, 0.1
"""Within-prompt correlation of reward and length; share of the reference's mean length. Rewards
that nobody optimised correlate by up to 0.4 on the embedded tasks."""
VALUE_GROWTH, WORSE_VALUE_GROWTH = 10.0, 3.0
"""Growth of the value loss; the second where the value explains less than a constant would. Where
it has become tiny, it may grow by a factor of 5 and mean nothing."""
ENTROPY_SHARE = 0.25
"""Share of the entropy per token that must be left."""


@dataclass(frozen=True)
class Check:
    """A named sign that something is wrong.

    Attributes:
        name: what tables call it.
        condition: when it fires.
        cause: what it most often comes from, one sentence.
        hint: what to look at first, one sentence.
    """

    name: str
    condition: str
    cause: str
    hint: str


CHECKS = (
    Check(
        "ratio",
        "`first_ratio_deviation` in the curve, the largest |rho - 1| at the first minibatch of a "
        "batch, is above 1e-4 (0.5 in bfloat16) at some step",
        "The policy that is trained is not, as it is scored, the one that sampled.",
        "Score samples before the first optimiser step, with the temperature, mask and padding "
        "that they were drawn with and dropout off.",
    ),
    Check(
        "negative KL",
        "the mean over prompts of sum_t log pi - log pi_ref on the evaluated samples is more than "
        f"{SIGMAS:g} standard errors below 0 (Student's t where prompts are few), and below "
        f"-{NEGLIGIBLE_KL:g} nats",
        "The samples were not drawn from the distribution that scores them: no KL is negative.",
        "Look for a temperature, top-k, top-p or minimum length that `Rollout.sampling` does not "
        "name, or a policy that changed after sampling.",
    ),
    Check(
        "sampler and scorer disagree",
        f"more than {OFF_SHARE:.1%} of the evaluated tokens carry a log-probability, the policy's "
        "or the sampler's, that the scorer finds off by |rho - 1| above 1e-4 (0.5 in bfloat16)",
        "The log-probabilities that the samples carry are not those of `agent.policy` under "
        "`Rollout.sampling`.",
        "Check that `sample` draws from `agent.policy` and names the sampling it used; then the "
        "sampler's cache, padding and positions.",
    ),
    Check(
        "constant reward",
        f"more than {CONSTANT_SHARE:.0%} of the prompts have samples of one reward each, in the "
        "last third of training (`zero_variance_share`) or among the evaluated",
        "No sample is better than another to the same prompt, so that there is nothing to learn.",
        "Look at the rewards of a few samples: constant, at their ceiling, or all the same text?",
    ),
    Check(
        "truncation rising",
        "the share of responses that the length limit cuts is above the reference's on the same "
        "prompts, or in the last third of training above the first third's, by more than "
        f"{MORE_TRUNCATED:g} and by {SIGMAS:g} standard errors",
        "The policy does not end its responses, often since the reward pays for length.",
        "Subtract a penalty from cut responses, raise the length limit or the price on KL.",
    ),
    Check(
        "duplicates rising",
        "the share of samples that repeat another to the same prompt is above the reference's by "
        f"more than {MORE_DUPLICATES:g} and by {SIGMAS:g} standard errors",
        "The policy gives the same answers over and over.",
        "Raise the price on KL, lower the learning rate, stop earlier, or add an entropy or "
        "novelty bonus.",
    ),
    Check(
        "reward follows length",
        f"evaluated rewards correlate with length within prompts, |r| above {CORRELATION:g}, and "
        f"the mean length has moved that way by more than {LENGTH_CHANGE:.0%} of the reference's "
        f"and by {SIGMAS:g} standard errors",
        "The reward pays for length, and the policy has followed it.",
        "Compare gold scores at equal length, and take length out of the reward.",
    ),
    Check(
        "value loss diverging",
        "the median `value_loss` of the last third of training is above "
        f"{VALUE_GROWTH:g} times that of an earlier third ({WORSE_VALUE_GROWTH:g} times where "
        "`explained_variance` ends below 0), or a value loss is infinite",
        "The value model does not follow the returns, so that advantages are noise.",
        "Lower `value_lr`, clip its gradient, or bring rewards to unit size.",
    ),
    Check(
        "entropy collapse",
        f"the entropy per token is below {ENTROPY_SHARE:.0%} of the reference's on the same "
        "prompts, or in the last third of training (`entropy`, else `nll` over `length`) below "
        "that share of the first third's",
        "The policy has become nearly deterministic and explores no more.",
        "Raise the price on KL, lower the learning rate, or add an entropy bonus.",
    ),
)
"""Every check, in the order of the record."""


def markdown() -> str:
    """Returns the table of all checks, as `docs/health.md` shows it."""
    rows = [("check", "fires when", "cause", "hint"), ("---",) * 4]
    rows += [(c.name, c.condition, c.cause, c.hint) for c in CHECKS]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "".join(f"| {line} |\n" for line in lines)


def fired(result: dict[str, Any]) -> list[str]:
    """Returns the names of the checks that fired in a cell, by its `result.json`."""
    return [record["check"] for record in result.get("health", ())]


def warnings(results: Iterable[dict[str, Any]]) -> str:
    """Returns what fired in the results of one agent's seeds, such as `ratio (seeds 0, 2)`."""
    seeds: dict[str, list[int]] = {}
    for result in results:
        for check in fired(result):
            seeds.setdefault(check, []).append(result["seed"])
    return "; ".join(
        f"{check} (seed{'s' if len(which) > 1 else ''} {', '.join(map(str, which))})"
        for check, which in seeds.items()
    )
