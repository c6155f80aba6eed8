import math
from itertools import pairwise

import pytest
import torch

from textgym.errors import ConfigError
from textgym.feedback.learning.links import BradleyTerry, Davidson, Logistic, Ordinal
from textgym.feedback.learning.objectives import (
    davidson_logprobs,
    davidson_loss,
    pairwise_loss,
    rating_logprobs,
    rating_loss,
    verdict_loss,
)
from textgym.functional import bradley_terry_loss


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.requires_grad_(True)


def test_pairwise_loss_by_hand():
    """A win by 2, a loss where the second leads by 1, and a tie at a distance of 1."""
    first, second, labels = double(3.0, 0.0, 1.0), double(1.0, 1.0, 0.0), double(1.0, 0.0, 0.5)
    won, lost = -math.log(sigmoid(2)), -math.log(sigmoid(1))
    tied = -0.5 * math.log(sigmoid(1)) - 0.5 * math.log(sigmoid(-1))
    assert float(pairwise_loss(first, second, labels)) == pytest.approx((won + lost + tied) / 3)
    centred = (16 + 1 + 1) / 3
    assert float(pairwise_loss(first, second, labels, centering=0.1)) == pytest.approx(
        (won + lost + tied) / 3 + 0.1 * centred
    )


def test_a_margin_is_asked_of_whoever_is_preferred():
    margins = double(0.5, 2.0)
    loss = pairwise_loss(double(3.0, 0.0), double(1.0, 1.0), double(1.0, 0.0), margins)
    by_hand = -math.log(sigmoid(2 - 0.5)) - math.log(sigmoid(1 - 2.0))
    assert float(loss) == pytest.approx(by_hand / 2)
    ranked = bradley_terry_loss(double(3.0, 1.0), double(1.0, 0.0), margins, 0.2)
    given = pairwise_loss(double(3.0, 0.0), double(1.0, 1.0), double(1.0, 0.0), margins, 0.2)
    assert float(given) == pytest.approx(float(ranked))


def test_the_gradient_of_a_comparison_is_what_was_not_foreseen():
    """d/d first = p - y for one pair, by hand; the second's is its opposite."""
    first, second = double(0.7).requires_grad_(), double(-0.2).requires_grad_()
    for label in (1.0, 0.5, 0.0):
        loss = pairwise_loss(first, second, double(label))
        gradient = torch.autograd.grad(loss, (first, second))
        expected = sigmoid(0.9) - label
        assert [x.item() for x in gradient] == pytest.approx([expected, -expected])


def test_davidson_by_hand():
    """Worths 4 and 1 and nu = 1: 4, 1 and sqrt(4) of 7."""
    logprobs = davidson_logprobs(double(math.log(4)), double(0.0), double(0.0)[0])
    assert logprobs.exp().tolist()[0] == pytest.approx([4 / 7, 1 / 7, 2 / 7])
    loss = davidson_loss(
        double(math.log(4)).expand(3), double(0.0).expand(3), double(1, 0, 0.5), double(0.0)[0]
    )
    assert float(loss) == pytest.approx(-math.log(4 / 7 * 1 / 7 * 2 / 7) / 3)


def test_davidson_without_ties_is_bradley_terry():
    first, second = random(6).detach(), random(6, seed=1).detach()
    labels = double(1, 0, 1, 1, 0, 0)
    narrow = torch.tensor(-60.0, dtype=torch.float64)
    assert float(davidson_loss(first, second, labels, narrow, 0.3)) == pytest.approx(
        float(pairwise_loss(first, second, labels, centering=0.3))
    )


def test_the_tie_width_that_fits_is_that_of_the_shares():
    """At equal scores the likelihood peaks where nu / (2 + nu) is the share of ties."""
    labels = double(0.5, 0.5, 1.0, 0.0, 1.0)
    log_tie = torch.tensor(math.log(2 * 0.4 / 0.6), dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(davidson_loss(zero, zero, labels, log_tie), log_tie)
    assert gradient.item() == pytest.approx(0, abs=1e-12)


def test_ratings_by_hand():
    thresholds = double(-2.0, -1.0, 1.0, 2.0)
    probability = rating_logprobs(double(0.5), thresholds).exp()[0]
    below = [0.0, *(sigmoid(t - 0.5) for t in thresholds.tolist()), 1.0]
    expected = [b - a for a, b in pairwise(below)]
    assert probability.tolist() == pytest.approx(expected)
    assert probability.sum().item() == pytest.approx(1)
    loss = rating_loss(double(0.5, 0.5), torch.tensor([5.0, 2.0]), thresholds)
    assert float(loss) == pytest.approx(-(math.log(expected[4]) + math.log(expected[1])) / 2)


def test_far_ratings_stay_finite():
    """Where both sigmoids round to 1 their difference does not."""
    scores = double(-60.0, 60.0).requires_grad_()
    loss = rating_loss(scores, torch.tensor([5.0, 3.0]), double(-2.0, -1.0, 1.0, 2.0))
    # -log P(5) is 62 and -log P(3) is 59 - log(1 - exp(-2)), up to exp(-59).
    assert loss.item() == pytest.approx((62 + 59 - math.log(1 - math.exp(-2))) / 2)
    assert torch.autograd.grad(loss, scores)[0].tolist() == pytest.approx([-0.5, 0.5])


def test_verdicts_by_hand():
    loss = verdict_loss(double(2.0, 0.0), double(1.0, 0.0), double(0.5)[0])
    assert float(loss) == pytest.approx(-(math.log(sigmoid(1.5)) + math.log(sigmoid(0.5))) / 2)


def test_gradients_against_finite_differences():
    first, second, labels = random(5), random(5, seed=1), double(1, 0, 0.5, 1, 0)
    log_tie, cut = random(seed=2), random(seed=3)
    thresholds = double(-1.5, -0.2, 0.3, 2.0).requires_grad_()
    ratings = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    def check(loss, *inputs):
        assert torch.autograd.gradcheck(loss, inputs)

    check(lambda a, b: pairwise_loss(a, b, labels, 0.4, 0.1), first, second)
    check(lambda a, b, t: davidson_loss(a, b, labels, t, 0.1), first, second, log_tie)
    check(lambda r, t: rating_loss(r, ratings, t), first, thresholds)
    check(lambda r, c: verdict_loss(r, double(1, 0, 1, 1, 0), c), first, cut)


def test_links_start_at_the_labels_shares():
    """Half an answer is added on either side, so that no share is 0 or 1."""
    tie = Davidson(torch.tensor([0.5, 1.0, 0.0])).numbers()["tie_width"]
    share = 1.5 / 4
    assert tie == pytest.approx(2 * share / (1 - share))
    assert Logistic(torch.tensor([1.0, 1.0, 0.0])).numbers()["cut"] == pytest.approx(
        -math.log((2.5 / 4) / (1.5 / 4))
    )
    labels = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0] * 20)
    probability = rating_logprobs(torch.zeros(1), Ordinal(labels).thresholds).exp()
    assert probability[0].tolist() == pytest.approx([0.2] * 5, abs=0.01)
    thresholds = Ordinal(torch.tensor([5.0, 5.0])).thresholds
    assert bool((thresholds.diff() > 0).all())


def test_what_counts_as_right():
    pair = BradleyTerry(torch.ones(1))
    scores = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    labels = torch.tensor([1.0, 0.0, 1.0, 0.5])
    assert pair.right(scores, labels).tolist() == [1.0, 0.0, 0.5]
    verdict = Logistic(torch.tensor([1.0, 0.0]))
    assert verdict.right(torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, 0.0])).tolist() == [1, 0]
    rating = Ordinal(torch.tensor([1.0, 2.0, 3.0, 3.0, 3.0, 4.0, 5.0] * 20))
    scores = torch.tensor([[-9.0], [9.0], [9.0], [0.0]])
    assert rating.right(scores, torch.tensor([1.0, 5.0, 4.0, 3.0])).tolist() == [1, 1, 0, 1]


def test_bad_input():
    one, two = torch.zeros(1), torch.zeros(2)
    for loss in (
        lambda: pairwise_loss(one, two, two),
        lambda: davidson_loss(two, two, one, one[0]),
        lambda: rating_loss(one, two, double(0.0, 1.0)),
        lambda: verdict_loss(one, two, one[0]),
    ):
        with pytest.raises(ValueError, match="shapes differ"):
            loss()
    with pytest.raises(ValueError, match="must ascend"):
        rating_logprobs(one, torch.tensor([1.0, 0.0]))
    for loss in (
        lambda: pairwise_loss(one, one, one, 0.0, -1.0),
        lambda: davidson_loss(one, one, one, one[0], -1.0),
    ):
        with pytest.raises(ConfigError, match="centering must be >= 0"):
            loss()
