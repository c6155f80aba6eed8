from textgym.benchmarks.qualify import COPIES, with_copies
from textgym.rollout import rollout
from textgym.tasks import load_task


def test_copies_replace_the_last_of_each_prompts_responses():
    import torch

    from textgym.models.policy import load_policy

    task = load_task("toxicity")
    rows = task.prompts("test").select(range(2))
    samples = rollout(
        load_policy(), task, rows, samples_per_prompt=5, generator=torch.Generator().manual_seed(0)
    )
    texts = samples.completions
    for share, copies in zip(COPIES, (0, 1, 2, 3, 4), strict=True):
        copied = with_copies(samples, share).completions
        expected = []
        for first in (0, 5):
            expected += texts[first : first + 5 - copies] + [texts[first]] * copies
        assert copied == expected
