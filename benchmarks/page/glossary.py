"""What every number of the page is: its formula, the trap in it, and where it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from textgym.benchmarks.intervals import BEYOND, DIVERSITY, EFFICIENCY, LOSS, SET
from textgym.benchmarks.measure import ACROSS


@dataclass(frozen=True)
class Definition:
    """A number's meaning.

    Attributes:
        name: as columns and charts call it.
        formula: what is computed.
        trap: what it is easily taken for.
        source: a paper, where there is one.
    """

    name: str
    formula: str
    trap: str = ""
    source: str = ""


KIRK = "Kirk et al. 2023, arXiv 2310.06452"
GAO = "Gao et al. 2022, arXiv 2210.10760"
AGARWAL = "Agarwal et al. 2021, arXiv 2108.13264"
LI = "Li et al. 2016, arXiv 1510.03055"
GEHMAN = "Gehman et al. 2020, arXiv 2009.11462"

METRICS = {
    "distinct_1": ("distinct-1", "distinct tokens / all tokens of the K responses", LI),
    "distinct_2": ("distinct-2", "distinct pairs of neighbouring tokens / all pairs", LI),
    "ead": (
        "EAD",
        "U / (V (1 − ((V − 1) / V)^C)), U distinct and C all n-grams of the K responses, V the "
        "vocabulary; mean over n = 1..5",
        "Liu et al. 2022, arXiv 2202.13587",
    ),
    "self_bleu": (
        "1 − self-BLEU",
        "1 − mean over responses of BLEU against the K − 1 others, n = 2..5, smoothing method 1",
        "Zhu et al. 2018, arXiv 1802.01886",
    ),
    "vendi_ngram": (
        "Vendi (n-grams)",
        "exp(−Σ λ log λ), λ the eigenvalues of the responses' n-gram similarity / K; between 1 "
        "and K",
        "Friedman and Dieng 2023, arXiv 2210.02410",
    ),
    "vendi_embedding": (
        "Vendi (embeddings)",
        "exp(−Σ λ log λ), λ the eigenvalues of the responses' cosine similarity / K",
        "Friedman and Dieng 2023, arXiv 2210.02410",
    ),
    "embedding": (
        "embedding spread",
        "1 − mean cosine between two responses' mean hidden states in the reference",
        "Tevet and Berant 2021, arXiv 2004.02990",
    ),
    "compression": (
        "compression",
        "compressed / raw bytes of the K responses, zlib",
        "Shaib et al. 2024, arXiv 2403.00553",
    ),
    "mode_entropy": ("voice entropy", "entropy of the K responses' voices, nats", ""),
    "entropy": ("entropy", "E[−log π(y|x)] over all responses, enumerated, nats", ""),
}
"""Diversity metrics: how charts call them, the formula and its source."""

TRAP_KL = (
    "A sum over tokens: logs of other projects often show the mean per token under the same name. "
    "~ marks an agent's own estimate where no policy scores its samples."
)

DEFINITIONS: dict[str, Definition] = {
    "rank": Definition(
        "rank",
        "1 + the number of rows whose interval lies wholly on the better side",
        "Rows that nothing tells apart share a rank. With one seed no rank tells algorithms apart.",
    ),
    "seeds": Definition(
        "seeds",
        "training runs that finished",
        "A failed or missing run is a hole. It is named below the table, never averaged around.",
    ),
    "reward": Definition(
        "reward",
        "mean of the proxy reward that agents train on, K responses to each prompt",
        "Rising reward is what is optimised. Whether it is good is what gold says.",
    ),
    "gold": Definition(
        "gold",
        "mean of the score that agents are judged by and never train on",
        "Reward may rise while gold falls: over-optimization.",
        GAO,
    ),
    "kl_seq": Definition(
        "KL",
        "mean over responses of Σ_t Σ_v π(v|s_t) [log π(v|s_t) − log π_ref(v|s_t)], nats per "
        "response",
        TRAP_KL,
    ),
    "effective_modes": Definition(
        "voices",
        "exp(entropy of the responses' voices)",
        "Taken over all prompts together: it falls late, as each prompt may keep a voice of its "
        "own.",
    ),
    EFFICIENCY: Definition(
        "frontier efficiency",
        "(R − R_ref) / (R*(KL) − R_ref): the share of the reward that the best policy at the same "
        "KL would gain",
        "Estimated from M samples of the reference, so it ends at log M nats; left out beyond.",
    ),
    "frontier": Definition(
        "reachable frontier",
        "R*(KL): reward Σ w r at KL Σ w log(M w), w = softmax(r / β) over M samples of the "
        "reference, β swept; the optimum is π_ref exp(r / β) / Z",
        "It ends at log M nats and lies somewhat low near there. The band is over prompts.",
    ),
    "over_optimization": Definition(
        "over-optimization",
        "gain over the reference against d = √KL; best-of-n: d (a − b d), peak at a / 2b; RL: "
        "d (a − b log d), peak at exp(a / b − 1)",
        "A fit over a short range of d extrapolates badly: read the intervals.",
        GAO,
    ),
    "best_of_k": Definition(
        "best of k",
        "E max of k responses = Σ_i C(i − 1, k − 1) / C(M, k) r_(i) from M sorted samples, "
        "unbiased for k ≤ M",
        "The best by the same score that is drawn. A policy that always says the same gains "
        "nothing from k.",
        "Nakano et al. 2021, arXiv 2112.09332",
    ),
    "improvement": Definition(
        "probability of improvement",
        "share of pairs of runs in which the row's agent beats the column's, ties one half",
        "Over seeds alone: with few seeds it is coarse, and its interval wide.",
        AGARWAL,
    ),
    "kept": Definition(
        "diversity kept",
        "D(agent) / D(reference), D the EAD of K responses to a prompt: 1 − diversity loss",
        "Above 1 where the agent is the more diverse.",
        KIRK,
    ),
    "matched": Definition(
        "diversity loss at matched KL or reward",
        "1 − D(agent) / D(reference) where an agent's checkpoints, interpolated, first reach a KL "
        "or reward",
        "Agents that never came as far have no number there.",
        KIRK,
    ),
    "hypervolume": Definition(
        "hypervolume",
        "area under (score, diversity kept) along training, from the corner (the reference's "
        "score, no diversity): score gained times the share of diversity kept while gaining it",
        "0 for the reference itself.",
    ),
    "expected_max_toxicity": Definition(
        "max toxicity",
        "mean over prompts of the highest toxicity among the K responses",
        "Grows with K. Numbers of different classifiers cannot be compared.",
        GEHMAN,
    ),
    "toxicity": Definition("toxicity", "mean toxicity of a response by the task's classifier"),
    "regret": Definition(
        "regret",
        "(J(π*) − J(π)) / β = KL(π || π*), J = E r − β KL, enumerated; interquartile mean where "
        "tasks are summed up",
        "0 is the best policy at that price of KL, not the highest reward.",
        AGARWAL,
    ),
    "regret_mean": Definition("mean regret", "plain mean of regret over seeds and tasks"),
    "entropy_kept": Definition(
        "entropy kept", "entropy of the agent's responses / the reference's, enumerated"
    ),
    "length": Definition("length", "tokens of a response, its end included"),
    "voice_shares": Definition(
        "voice distribution", "share of responses in each of the world's voices, all prompts"
    ),
}

PREFIXED = {
    DIVERSITY: (
        "diversity",
        "mean over prompts of D(its K responses), D = {}",
        "Depends on K and on length: texts are cut to one common length, K is the same for all.",
    ),
    LOSS: (
        "diversity loss",
        "1 − D(agent) / D(reference) on the same prompts, D = {}; interval paired by prompt",
        "Reward itself asks for some of it: see the loss beyond the optimum's.",
    ),
    BEYOND: (
        "loss beyond optimum's",
        "(D(best at the agent's KL) − D(agent)) / D(reference), D = {}",
        "Negative where the agent keeps more than the best policy would, at the price of reward.",
    ),
    ACROSS: (
        "across-input diversity",
        "D of one response per prompt, averaged over the K choices, D = {}",
        "No pool of all samples: that would mix it with diversity per input.",
    ),
    SET: (
        "of the set",
        "mean over prompts of {!r} of its K completions together, as the task says",
        "Depends on K. Prompts that it does not apply to are left out.",
    ),
}
"""Numbers that are there once for every diversity metric, or for every measure of sets."""


def define(metric: str) -> Definition:
    """Returns a metric's definition; one that nobody wrote down says so.

    >>> define("diversity_loss/ead").name
    'diversity loss (EAD)'
    """
    if metric in DEFINITIONS:
        return DEFINITIONS[metric]
    for prefix, (name, formula, trap) in PREFIXED.items():
        inner = metric.removeprefix(prefix)
        if inner != metric:
            short, of, source = METRICS.get(inner, (inner, inner, ""))
            source = source or (KIRK if prefix == LOSS else "")
            return Definition(f"{name} ({short})", formula.format(of), trap, source)
    return Definition(metric, f"mean over prompts and responses of {metric!r}, as the task says")


def anchor(metric: str) -> str:
    """Returns the id of a metric's place in the glossary.

    >>> anchor("diversity_loss/ead")
    'def-diversity_loss-ead'
    """
    return "def-" + re.sub(r"[^A-Za-z0-9_]+", "-", metric)
