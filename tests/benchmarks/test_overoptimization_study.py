"""The study of over-optimisation: numbers worked by hand, laws found again, one point run."""

import itertools
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from textgym.benchmarks.studies import laws, overoptimization_told, proxies, pursuit
from textgym.benchmarks.studies.overoptimization import Overoptimization, methods
from textgym.benchmarks.studies.proxies import GRID, PLANTED, Recipe, Replies
from textgym.benchmarks.studies.study import shown
from textgym.functional.best_of_n import best_of_n_kl_bound
from textgym.models.policy import load_policy
from textgym.rewards.learned import RewardModel
from textgym.rollout import rollout

REPLIES = Replies(
    ["p", "p", "q", "q"],
    ["a", "a", "b!", "c"],
    {"thing": ["mill", "mill", "pool", "pool"]},
    2,
)


def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def law_rows(seeds=2, remarks=3):
    """Rows whose gold follows each method's own law, with a = 1 and b = 0.25."""
    d = {m: np.array([0, 0.5, 1, 2, 3]) for m in pursuit.METHODS}
    d[pursuit.BEST_OF_N] = np.array([0, 0.25, 0.5, 1, 2])
    rows = []
    for recipe, seed in itertools.product((*GRID, *PLANTED), range(seeds)):
        for method in (pursuit.BEST_OF_N, *methods(recipe)):
            x = d[method]
            bend = x if method == pursuit.BEST_OF_N else np.log(np.where(x > 0, x, 1))
            curves = {"kl": x**2, "proxy": x, "gold": x * (1 - 0.25 * bend)}
            tiled = {n: np.tile(v[1:, None], remarks) for n, v in curves.items()}
            texts = {n: laws.packed(v, laws.TENTHS) for n, v in tiled.items()}
            told = {"reference": 0.4, "deviation": 0.5}
            told |= {"length": "5000;5000;5000;5000;9000", "keyword": "20;20;20;20;60"}
            rows.append({"seed": seed, "method": method, **asdict(recipe), **told, **texts})
    return pd.DataFrame(rows)


def yardstick(proxy, gold, **traits):
    zeros = {name: np.zeros(np.shape(proxy)) for name in pursuit.TRAITS}
    return pursuit.Yardstick(
        {
            n: np.array(v, float)
            for n, v in {**zeros, "proxy": proxy, "gold": gold, **traits}.items()
        }
    )


@pytest.fixture(scope="module")
def summary():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laws, "TENTHS", 10_000)  # so that rounding does not hide the laws
        return Overoptimization().summary(law_rows())


def test_every_proxy_is_a_point_and_the_longest_are_first():
    points = Overoptimization().points(1)
    assert len(points) == 3 * 4 * 3 + 2
    assert {point["seed"] for point in points} == {1}
    assert all(point["layers"] == 4 for point in points[:6])
    many = [methods(r) for r in (*GRID, *PLANTED)]
    assert many.count(("ppo", "reinforce", "rloo")) == 6  # four amounts of labels, two biases
    assert many.count(("rloo",)) == 4  # two more sizes, two more noises


def test_best_of_n_is_judged_by_gold_in_the_proxys_order(monkeypatch):
    monkeypatch.setattr(pursuit, "NS", (1, 2, 3))
    # Of the pairs among proxies 1, 2, 3 the best is 2 once and 3 twice; gold there is 1 and 0.
    pool = yardstick([[1, 3, 2]], [[0, 0, 1]], length=[[10, 20, 30]], keyword=[[0, 1, 0]])
    seen = pursuit.best_of_n(pool)
    unit = np.sqrt(2 / 3)
    assert seen.proxy[:, 0] == pytest.approx([0, (8 / 3 - 2) / unit, 1 / unit])
    assert seen.gold[:, 0] == pytest.approx([0, 0, -(1 / 3) / np.sqrt(2 / 9)])
    assert seen.kl[:, 0] == pytest.approx([best_of_n_kl_bound(n) for n in (1, 2, 3)])
    assert seen.traits["length"][:, 0] == pytest.approx([20, 70 / 3, 20])
    assert seen.traits["keyword"][:, 0] == pytest.approx([1 / 3, 2 / 3, 1])


def test_scores_are_told_from_the_same_remarks_reference():
    pool = yardstick([[0, 2], [4, 6]], [[0, 1], [1, 1]])
    seen = pool.of(
        np.zeros((1, 2)),
        {
            "proxy": np.array([[1.0, 7.0]]),
            "gold": np.array([[1.0, 0.5]]),
            "length": np.array([[3.0, 5.0]]),
            "keyword": np.array([[0.0, 1.0]]),
        },
    )
    assert seen.proxy[0] == pytest.approx([0, 2 / np.sqrt(5)])
    assert seen.gold[0] == pytest.approx(np.array([0.5, -0.5]) / np.sqrt(3 / 16))
    assert seen.traits["length"].tolist() == [[4]]
    assert seen.traits["keyword"].tolist() == [[0.5]]


def test_a_proxy_is_normalised_on_its_pool():
    model = RewardModel.from_policy(proxies.pretrained(), torch.Generator().manual_seed(0))
    columns = {"thing": ["mill"] * 4, "where": ["Ulm"] * 4}
    pool = Replies(["Hi"] * 4, [" one!", " two words", " three", ""], columns, 4)
    scores = pursuit.normalised(model, proxies.task(0), pool).scores
    again = np.array(model(pool.prompts, pool.completions))
    assert again == pytest.approx(scores["proxy"][0], abs=1e-5)
    assert (again.mean(), again.std()) == pytest.approx((0, 1), abs=1e-5)
    assert scores["gold"].tolist() == [[0, 0, 0, 0]]
    assert scores["length"].tolist() == [[5, 10, 6, 0]]
    assert scores["keyword"].tolist() == [[1, 0, 0, 0]]


def test_questions_leave_out_equal_replies():
    (asked,) = proxies.questions(REPLIES)
    assert (asked.prompt, asked.completions) == ("q", ("b!", "c"))
    assert asked.columns == {"thing": "pool"}


def test_planted_biases_are_in_the_answers():
    texts = (["q", "q"], ["b!", "c"])
    lover = proxies.annotator(Recipe(4, 1, 0.0, proxies.KEYWORD), length, 0)
    assert lover.reward(*texts) == [2 + proxies.WORD_BONUS, 1]
    assert lover.config.length_bias == 0
    plain = proxies.annotator(Recipe(4, 1, 0.15), length, 0)
    assert plain.reward(*texts) == [2, 1]
    assert plain.config.flips == 0.15
    longer = proxies.annotator(Recipe(4, 1, 0.0, proxies.LENGTH), length, 0)
    assert longer.config.length_bias == proxies.LENGTH_BIAS


def test_few_labels_are_passed_over_more_often():
    assert [proxies.config(Recipe(4, n, 0.0)).epochs for n in proxies.LABELS] == [8, 8, 2, 1]


def test_sizes_are_the_language_models_first_layers():
    counts = [proxies.parameter_count(layers) for layers in proxies.LAYERS]
    per_layer = 4 * 128 * 128 + 3 * 128 * 384 + 2 * 128
    assert [counts[1] - counts[0], counts[2] - counts[1]] == [per_layer, 2 * per_layer]
    assert len(proxies.pretrained().model.base_model.layers) == 4
    one = proxies.shallow(1, torch.Generator().manual_seed(0))
    rows = one.encode(["Hi"], [" there"])
    ids = torch.tensor([rows[0].ids])
    whole = proxies.pretrained().model.base_model
    embedded = whole.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)[None, None]
    state = whole.layers[0](
        embedded,
        attention_mask=mask,
        position_ids=positions,
        position_embeddings=whole.rotary_emb(embedded, positions),
    )
    read = whole.norm(state)[0, -rows[0].completion :].mean(0)
    assert torch.allclose(one.pooled(rows)[0], read, atol=1e-4)


def test_kl_is_each_remarks_mean_over_replies_of_exact_token_kls():
    reference = load_policy("tiny").freeze()
    other = reference.copy()
    with torch.no_grad():
        other.model.get_input_embeddings().weight.mul_(1.1)
    asked = proxies.task(0)
    rows = asked.prompts("test").select(range(2))
    generator = torch.Generator().manual_seed(0)
    drawn = rollout(other, asked, rows, samples_per_prompt=2, generator=generator)
    assert pursuit.kl_to(reference, reference, drawn) == pytest.approx([0, 0], abs=1e-5)
    with torch.no_grad():
        p, q = (policy.response_logprobs(drawn) for policy in (other, reference))
    by_token = (p.exp() * (p - q)).sum(-1) * drawn.response_mask
    expected = by_token.sum(1).reshape(2, 2).mean(1)
    assert pursuit.kl_to(reference, other, drawn) == pytest.approx(expected.tolist(), rel=1e-3)


def test_paths_of_the_same_seeds_are_resampled_alike():
    generator = np.random.default_rng(0)
    curves = generator.normal(size=(2, 3, 4))
    first, second = laws._means(list(curves)), laws._means(list(curves + 1))
    assert first.shape == (1 + laws.RESAMPLES, 1 + 3)
    assert (first[:, 0] == 0).all()
    assert first[0, 1:] == pytest.approx(curves.mean(axis=(0, 2)))
    assert (second - first)[:, 1:] == pytest.approx(1)
    assert first[1:, 1:].std(axis=0).min() > 0.05


def test_the_table_finds_the_laws_again(summary):
    gold = summary[summary["of"] == "gold"]
    assert len(gold) == 38 + 6 * 3 + 4
    assert gold["a"].to_numpy() == pytest.approx(1, abs=1e-3)
    assert gold["b"].to_numpy() == pytest.approx(0.25, abs=1e-3)
    best = gold["method"] == pursuit.BEST_OF_N
    assert gold.loc[best, "peak"].to_numpy() == pytest.approx(2, abs=0.01)
    assert gold.loc[~best, "peak"].to_numpy() == pytest.approx(np.exp(3), rel=0.02)
    assert np.isinf(summary.loc[(summary["of"] == "proxy") & best, "peak"]).all()
    page = shown(summary, Overoptimization.by)
    assert page.count("\n") == 1 + len(summary)


def test_findings_say_which_law_holds(summary):
    told = " ".join(Overoptimization().findings(summary))
    assert "the first is closer on 38 of 38 curves" in told
    for method in ("PPO", "REINFORCE"):
        assert f"{method}, root mean squared error" in told
    assert told.count("the first is closer on 0 of 6 curves") >= 2
    # Best of 256 stands at 2 (1 - 0.25 * 2) whoever made the proxy.
    assert "from 16 labels has gold +1.00 [+1.00, +1.00], from 1,024 labels +1.00" in told
    assert "a perfect reply has +1.20" in told


def test_findings_of_a_folder_that_is_not_complete():
    rows = law_rows(seeds=1)  # in tenths, as they are kept
    some = rows[(rows["labels"] == 256) & (rows["flips"] == 0.15) & (rows["layers"] == 4)]
    study = Overoptimization()
    told = " ".join(study.findings(study.summary(some)))
    assert "Best-of-n, mean over 1 proxies" in told
    assert "planted length bias" in told
    assert "the mean reply goes from 50 to 90 characters" in told
    assert "the share of replies with the keyword goes from 20% to 60%" in told
    study.draw(study.summary(some), Figure())


def test_the_figure_has_a_panel_per_question(summary, tmp_path):
    figure = Figure(layout="constrained")
    Overoptimization().draw(summary, figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == len(set(titles)) == 12
    assert all(axes.lines[0].get_xydata().shape[1] == 2 for axes in figure.axes)
    figure.savefig(tmp_path / "study.png", dpi=60)


def test_intervals_may_be_infinite():
    values = np.array([1.0, *[0.5] * 50, *[np.inf] * 50])
    assert overoptimization_told.shown(values, ".1f") == "1.0 [0.5, inf]"


def test_a_point_runs_end_to_end(monkeypatch, tmp_path):
    for module, name, value in (
        (proxies, "SFT", {"steps": 1}),
        (proxies, "PROMPTS", 2),
        (proxies, "POOL", 4),
        (proxies, "REMARKS", 24),
        (pursuit, "NS", (1, 4)),
        (pursuit, "STEPS", (1, 2)),
        (pursuit, "SEEN", 2),
    ):
        monkeypatch.setattr(module, name, value)
    study = Overoptimization()
    point = {**asdict(Recipe(1, 256, 0.15)), "seed": 0}
    rows = study.run(point, tmp_path)
    assert [row["method"] for row in rows] == [pursuit.BEST_OF_N, "rloo"]
    assert laws.unpacked(rows[0]["gold"], laws.TENTHS).shape == (1, 2)
    kl = laws.unpacked(rows[1]["kl"], laws.TENTHS)
    assert kl.shape == (2, 2)
    assert kl.mean() > 0
    assert laws.unpacked(rows[1]["length"], laws.HUNDREDTHS).shape == (3, 1)
    assert len(study.summary(pd.DataFrame([{"seed": 0, **row} for row in rows]))) == 4
