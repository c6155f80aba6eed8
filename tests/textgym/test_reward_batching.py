"""Texts are decoded, tokenized and scored once, in batches of like length and bounded size."""

import pytest
import torch
from datasets import Dataset
from envs_support import EOS, FELL, RAIN, SHONE, SUN, WordTask, word_tokenizer
from reward_support import tiny_policy

from textgym.envs.vector_env import TextVectorEnv
from textgym.rewards import learned
from textgym.rewards.batching import buckets
from textgym.rewards.detoxify import Toxicity
from textgym.rewards.learned import RewardModel
from textgym.rollout import rollout, score
from textgym.tasks import load_task
from textgym.tasks.base import Task

PROMPTS = [
    "The cat",
    "The cat",
    "The old dog sat by the x.",
    "The cat",
    "The old dog sat by the x.",
]
COMPLETIONS = [" sat.", " by the y and by the x", " The dog.", " sat.", " sat."]


class LengthTask(Task):
    """Two prompts; the reward is the completion's length in characters."""

    name = "length"
    question = "how long is the text?"
    max_prompt_tokens, max_response_tokens = 16, 1

    def prompts(self, split):
        return Dataset.from_dict({"prompt": ["The cat", "The dog"]})

    def demonstrations(self):
        return self.prompts("train")

    def reward(self, prompts, completions, **columns):
        return [float(len(text)) for text in completions]


class Listening:
    """A tokenizer that notes every text it encodes."""

    def __init__(self, inner):
        self.inner = inner
        self.encoded = []

    def __call__(self, texts, **options):
        self.encoded += texts
        return self.inner(texts, **options)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Shouting:
    """Detoxify's interface: toxicity is the share of capitals. Notes every batch."""

    def __init__(self):
        self.batches = []

    def predict(self, texts):
        self.batches.append(texts)
        found = [sum(c.isupper() for c in text) / max(1, len(text)) for text in texts]
        return {"toxicity": found if len(found) > 1 else found[0]}


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


@pytest.fixture
def decoded(monkeypatch):
    """Returns a function that lists every row of ids that a tokenizer decodes from then on."""

    def listen(tokenizer):
        rows, plain = [], tokenizer.decode

        def decode(ids, **options):
            rows.append([int(i) for i in ids])
            return plain(ids, **options)

        monkeypatch.setattr(tokenizer, "decode", decode)
        return rows

    return listen


def test_a_scored_rollout_decodes_each_distinct_response_once(policy, decoded):
    rows = decoded(policy.tokenizer)
    task, generator = LengthTask(), torch.Generator().manual_seed(0)
    drawn = rollout(
        policy, task, task.prompts("train"), samples_per_prompt=100, generator=generator
    )
    score(drawn, task)
    distinct = {tuple(row) for row in drawn.response_ids.tolist()}
    assert len(distinct) < len(drawn) == 200
    assert sorted(rows) == sorted(map(list, distinct))


def test_the_vector_environment_decodes_each_finished_response_once(decoded):
    tokenizer = word_tokenizer()
    rows = decoded(tokenizer)
    env = TextVectorEnv(3, WordTask(), tokenizer)
    env.reset(seed=0)
    env.step([FELL, SHONE, RAIN])
    assert rows == []
    env.step([EOS, SUN, RAIN])
    assert rows == [[FELL, EOS]]
    env.step([FELL, EOS, SUN])
    assert rows == [[FELL, EOS], [SHONE, SUN, EOS], [RAIN, RAIN, SUN]]


def test_buckets_are_bounded_by_their_padded_size():
    assert buckets([1, 4, 3, 0, 2], [3, 1, 9, 2, 1], limit=6) == [[1, 4, 3], [0], [2]]
    # Not in order of length: what was longest before still pads what follows.
    assert buckets([0, 1, 2], [4, 1, 1], limit=8) == [[0, 1], [2]]
    assert buckets([0, 1, 2, 3], [6, 1, 1, 1], limit=6) == [[0], [1, 2, 3]]
    assert buckets([0, 1], [7, 7], limit=1) == [[0], [1]]
    assert buckets([], [], limit=8) == []


def test_detoxify_reads_the_completions_of_a_step_in_one_batch():
    classifier = Shouting()
    toxicity = Toxicity(classifier)
    texts = ["NO way", "no", "NO way", "", "NO", "Never", "no"]
    expected = [1 / 3, 0, 1 / 3, 0, 1, 1 / 5, 0]
    assert toxicity.scores(texts) == pytest.approx(expected)
    assert classifier.batches == [["", "no", "NO", "Never", "NO way"]]


def test_detoxify_reads_more_in_bounded_batches():
    classifier = Shouting()
    texts = ["A", "bb", "ccccc", "DDDd", "ee", "f"]
    toxicity = Toxicity(classifier, bucket_characters=6)
    assert toxicity.scores(texts) == [1, 0, 0, 0.75, 0, 0]
    assert classifier.batches == [["A", "f", "bb"], ["ee"], ["DDDd"], ["ccccc"]]


def test_reward_and_measure_of_one_batch_read_it_once():
    classifier = Shouting()
    task = load_task("toxicity", classifier=Toxicity(classifier), train=2)
    rows = task.prompts("train")[:]
    prompts, completions = rows.pop("prompt"), [" You FOOL", " Fine"]
    rewards = task.reward(prompts, completions, **rows)
    measured = task.measures(prompts, completions, **rows)["toxicity"]
    assert len(rewards) == 2
    assert measured == pytest.approx([5 / 9, 1 / 5])
    assert classifier.batches == [[" Fine", " You FOOL"]]


def test_what_detoxify_remembers_is_the_last_batch_and_its_own():
    classifier = Shouting()
    toxicity = Toxicity(classifier)
    first = toxicity.scores(["A", "b"])
    first[0] = 7.0
    assert toxicity.scores(("A", "b")) == [1, 0]
    assert toxicity.scores(["b", "A"]) == [0, 1]
    assert toxicity.scores(["A", "b"]) == [1, 0]
    assert len(classifier.batches) == 3


def model_of(policy):
    return RewardModel.from_policy(policy, torch.Generator().manual_seed(0))


def scored_batches(model, monkeypatch):
    """Lists the rows that `model` scores together from now on."""
    batches, plain = [], model.raw_scores

    def raw_scores(rows):
        batches.append(rows)
        return plain(rows)

    monkeypatch.setattr(model, "raw_scores", raw_scores)
    return batches


def test_the_learned_reward_scores_equal_rows_once_and_prompts_together(policy, monkeypatch):
    model = model_of(policy)
    batches = scored_batches(model, monkeypatch)
    scores = model(PROMPTS, COMPLETIONS)
    assert scores[0] == scores[3]
    (batch,) = batches
    asked = [row.ids[: -row.completion] for row in batch]
    assert asked == [asked[0]] * 2 + [asked[2]] * 2
    assert len(asked[0]) < len(asked[2])
    assert len(set(batch)) == 4


def test_the_learned_rewards_batches_are_bounded_and_change_no_score(policy, monkeypatch):
    model = model_of(policy)
    alone = [model([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    batches = scored_batches(model, monkeypatch)
    padded, plain = [], learned.pad

    def pad(*arguments, **options):
        padded.append(plain(*arguments, **options))
        return padded[-1]

    monkeypatch.setattr(learned, "pad", pad)
    model.bucket_tokens = 40
    assert model(PROMPTS[::-1], COMPLETIONS[::-1]) == pytest.approx(alone[::-1], abs=1e-5)
    sizes = [len(rows) * max(len(row.ids) for row in rows) for rows in batches]
    assert len(batches) > 1
    assert max(map(len, batches)) > 1
    assert all(size <= 40 for size in sizes)
    assert sum(map(len, batches)) == 4
    assert len(padded) >= len(batches)
    assert all(ids.shape[1] == mask.sum(1).max() for ids, mask in padded)


def test_the_learned_reward_tokenizes_each_distinct_text_once(policy):
    model = model_of(policy)
    model.tokenizer = Listening(policy.tokenizer)
    model(PROMPTS, COMPLETIONS)
    assert sorted(model.tokenizer.encoded) == sorted({*PROMPTS} | {*COMPLETIONS})
