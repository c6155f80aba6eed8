import pytest
import torch
from policy_support import (
    FAMILIES,
    PROMPTS,
    CountTask,
    make_policy,
    plain_logprobs,
    prompt_tokens,
    response_tokens,
    tokenizer,
)

from textgym.models.hugging_face import position_ids
from textgym.models.policy import Policy
from textgym.models.value_head import ValueModel
from textgym.rollout import encode_texts, rollout
from textgym.types import Sampling

TASK = CountTask()
CLOSE = {"atol": 1e-5, "rtol": 0}


def sample(policy, seed=0, **options):
    return rollout(
        policy,
        TASK,
        TASK.prompts("train"),
        samples_per_prompt=3,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


@pytest.fixture(params=FAMILIES, scope="module")
def policy(request):
    return make_policy(request.param)


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[False, False, True, True, True], [True, True, True, False, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]


def test_sampled_logprobs_are_those_of_a_plain_forward_pass(policy):
    samples = sample(policy)
    assert samples.response_mask.sum(1).unique().numel() > 1, "rows should end at various times"
    for row in range(len(samples)):
        response = response_tokens(samples, row)
        expected = plain_logprobs(policy, prompt_tokens(samples, row), response)
        expected = expected[torch.arange(len(response)), torch.tensor(response)]
        actual = samples.policy_logprobs[row][samples.response_mask[row]]
        torch.testing.assert_close(actual, expected, **CLOSE)
    assert (samples.policy_logprobs[~samples.response_mask] == 0).all()


def test_scores_are_those_of_a_plain_forward_pass(policy):
    samples = sample(policy)
    with torch.no_grad():
        everything = policy.response_logprobs(samples)
        chosen = policy.logprobs(samples)
    for row in range(len(samples)):
        response = response_tokens(samples, row)
        expected = plain_logprobs(policy, prompt_tokens(samples, row), response)
        torch.testing.assert_close(everything[row][samples.response_mask[row]], expected, **CLOSE)
    torch.testing.assert_close(chosen, samples.policy_logprobs, **CLOSE)
    assert (everything[~samples.response_mask] == 0).all()


def test_next_logits_are_those_of_a_plain_forward_pass(policy):
    ids = torch.tensor([[0, 0, 40, 50, 60], [7, 8, 9, 10, 11]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.int8)
    with torch.no_grad():
        actual = policy.next_logits(ids, mask)
        wide = policy.next_logits(
            torch.nn.functional.pad(ids, (4, 0)), torch.nn.functional.pad(mask, (4, 0))
        )
        short = policy.model(input_ids=torch.tensor([[40, 50, 60]])).logits[0, -1]
    torch.testing.assert_close(actual[0], short, **CLOSE)
    torch.testing.assert_close(wide, actual, **CLOSE)


def test_logprobs_do_not_depend_on_padding_or_order(policy):
    samples = sample(policy)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(3))
    moved = samples.select(order)
    moved.prompt_ids = torch.nn.functional.pad(moved.prompt_ids, (5, 0), value=9)
    moved.prompt_mask = torch.nn.functional.pad(moved.prompt_mask, (5, 0))
    moved.response_ids = torch.nn.functional.pad(moved.response_ids, (0, 3), value=9)
    moved.response_mask = torch.nn.functional.pad(moved.response_mask, (0, 3))
    with torch.no_grad():
        expected, actual = policy.logprobs(samples)[order], policy.logprobs(moved)
    torch.testing.assert_close(actual[:, : expected.shape[1]], expected, **CLOSE)
    assert (actual[:, expected.shape[1] :] == 0).all()


def test_chunks_change_nothing(policy, monkeypatch):
    samples = sample(policy)
    with torch.no_grad():
        whole, embedded = policy.logprobs(samples), policy.embed(samples)
        monkeypatch.setattr("textgym.models.pieces.CHUNK_FLOATS", 1)
        assert len(policy.chunks(samples)) == len(samples)
        torch.testing.assert_close(policy.logprobs(samples), whole, **CLOSE)
        torch.testing.assert_close(policy.embed(samples), embedded, atol=1e-4, rtol=0)


def test_embeddings_are_mean_hidden_states_of_the_response(policy):
    samples = sample(policy)
    embedded = policy.embed(samples)
    for row in (0, 7):
        prompt, response = prompt_tokens(samples, row), response_tokens(samples, row)
        with torch.no_grad():
            states = policy.model.base_model(torch.tensor([prompt + response])).last_hidden_state
        torch.testing.assert_close(embedded[row], states[0, len(prompt) :].mean(0), **CLOSE)


def test_value_is_read_before_each_token(policy):
    samples = sample(policy)
    model = ValueModel(policy, torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = model(samples)
        for row in (0, 5):
            prompt, response = prompt_tokens(samples, row), response_tokens(samples, row)
            for t in range(len(response)):
                seen = torch.tensor([prompt + response[:t]])
                state = policy.model.base_model(seen).last_hidden_state[0, -1]
                torch.testing.assert_close(values[row, t], model.head(state), **CLOSE)
    assert (values[~samples.response_mask] == 0).all()


def test_gradients_reach_the_policy_and_a_copy_is_its_own(policy):
    samples = sample(policy)
    other = policy.copy()
    assert other.copy().freeze().parameters() == []
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    (-other.logprobs(samples).sum()).backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(policy.logprobs(samples), samples.policy_logprobs, **CLOSE)
        assert (other.logprobs(samples) - samples.policy_logprobs).abs().max() > 1e-2


def test_dropout_is_always_off():
    policy = make_policy("gpt2")
    assert policy.model.config.resid_pdrop > 0
    samples = sample(policy)
    first, second = policy.copy().logprobs(samples), policy.copy().logprobs(samples)
    assert torch.equal(first, second)


def test_a_head_with_more_rows_than_the_tokenizer_is_cut():
    policy = make_policy("llama", extra_rows=30)
    assert policy.vocab_size == len(policy.tokenizer) == policy.model.config.vocab_size - 30
    samples = sample(policy)
    assert int(samples.response_ids.max()) < policy.vocab_size
    with torch.no_grad():
        everything = policy.response_logprobs(samples)
    assert everything.shape[-1] == policy.vocab_size
    sums = everything[samples.response_mask].exp().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_pad_equal_to_eos_changes_nothing(family):
    apart = make_policy(family)
    same = Policy(apart.model, tokenizer(pad_is_eos=True))
    assert same.pad_token_id == same.eos_token_id
    first, second = sample(apart), sample(same)
    assert torch.equal(first.response_mask, second.response_mask)
    assert first.completions == second.completions
    torch.testing.assert_close(first.policy_logprobs, second.policy_logprobs, **CLOSE)
    assert torch.equal(first.truncated, second.truncated)


def test_no_response_tokens():
    policy = make_policy()
    samples = sample(policy, max_new_tokens=0)
    assert samples.response_ids.shape == (12, 0)
    assert samples.completions == [""] * 12
    assert samples.truncated.all()
    assert policy.logprobs(samples).shape == (12, 0)
    assert policy.response_logprobs(samples).shape == (12, 0, policy.vocab_size)
    assert ValueModel(policy)(samples).shape == (12, 0)
    assert policy.embed(samples).shape == (12, 16)


def test_sampling_settings_do_not_change_what_the_policy_says():
    policy = make_policy()
    samples = sample(policy, sampling=Sampling(temperature=0.5, top_k=4))
    with torch.no_grad():
        torch.testing.assert_close(policy.logprobs(samples), samples.policy_logprobs, **CLOSE)


def test_given_texts_become_a_rollout():
    policy = make_policy()
    texts = [" came in", "", " late on a windy day." * 3, " boat"]
    given = encode_texts(policy, TASK, TASK.prompts("train"), texts)
    assert given.prompts == PROMPTS
    assert given.completions[:2] == texts[:2]
    assert response_tokens(given, 1) == [policy.eos_token_id]
    assert given.truncated.tolist() == [False, False, True, False]
    assert len(response_tokens(given, 2)) == TASK.max_response_tokens
    for row in range(4):
        response = response_tokens(given, row)
        expected = plain_logprobs(policy, prompt_tokens(given, row), response)
        expected = expected[torch.arange(len(response)), torch.tensor(response)]
        actual = given.policy_logprobs[row][given.response_mask[row]]
        torch.testing.assert_close(actual, expected, **CLOSE)
