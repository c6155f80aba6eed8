import socket

import pytest
import torch
from policy_support import TEXTS, tokenizer
from transformers import PreTrainedTokenizerFast

from textgym.errors import ModelError, PromptTooLongError
from textgym.models.tokenize import (
    completion_token_ids,
    decode_responses,
    encode_prompts,
    load_tokenizer,
    prompt_token_ids,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def bpe():
    return tokenizer()


def word_tokenizer(**specials):
    """One id per word, to write expected ids down by hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<eos>": 0, "<pad>": 1, "<bos>": 2, "a": 3, "b": 4, "c": 5}
    made = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, **specials)


def test_special_tokens_come_first_and_training_is_deterministic(bpe):
    assert (bpe.eos_token, bpe.eos_token_id) == ("<|endoftext|>", 0)
    assert (bpe.pad_token, bpe.pad_token_id) == ("<|pad|>", 1)
    assert bpe.bos_token is None
    assert 258 < len(bpe) <= 290
    again = train_tokenizer(TEXTS * 5, 290)
    assert again.get_vocab() == bpe.get_vocab()
    assert again("The old boat").input_ids == bpe("The old boat").input_ids


def test_any_text_survives_the_round_trip(bpe):
    texts = [" leading", "é ☂ 漢字", "tabs\tand\n\nlines  ", ""]
    ids = [torch.tensor(row) for row in completion_token_ids(bpe, texts)]
    for text, row in zip(texts, ids, strict=True):
        assert row[-1] == bpe.eos_token_id
        mask = torch.ones(1, len(row), dtype=torch.bool)
        assert decode_responses(bpe, row[None], mask) == [text]


def test_prompts_are_left_padded_to_the_longest():
    words = word_tokenizer(eos_token="<eos>", pad_token="<pad>")
    ids, mask = encode_prompts(words, ["a", "a b c"], 3)
    assert ids.tolist() == [[1, 1, 3], [3, 4, 5]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]


def test_a_long_prompt_is_an_error_that_names_tokens_and_limit():
    words = word_tokenizer(eos_token="<eos>", pad_token="<pad>")
    with pytest.raises(PromptTooLongError, match="prompt 1 has 3 tokens, the limit is 2: 'a b c'"):
        encode_prompts(words, ["a", "a b c"], 2)


def test_an_empty_prompt_is_the_token_that_starts_a_text():
    assert prompt_token_ids(word_tokenizer(eos_token="<eos>"), ["", "a"]) == [[0], [3]]
    with_bos = word_tokenizer(eos_token="<eos>", bos_token="<bos>")
    assert prompt_token_ids(with_bos, ["", "a"]) == [[2], [3]]


def test_no_texts():
    words = word_tokenizer(eos_token="<eos>", pad_token="<pad>")
    ids, mask = encode_prompts(words, [], 4)
    assert ids.shape == mask.shape == (0, 0)
    assert completion_token_ids(words, []) == []


def test_the_mask_alone_says_what_is_decoded():
    words = word_tokenizer(eos_token="<eos>", pad_token="<eos>")
    ids = torch.tensor([[3, 4, 0, 5], [3, 4, 0, 0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    assert decode_responses(words, ids, mask) == ["a b", "a"]


def test_a_saved_tokenizer_loads_without_the_network(bpe, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    bpe.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded("The old boat").input_ids == bpe("The old boat").input_ids
    assert loaded.pad_token_id == 1


def test_a_missing_pad_token_becomes_eos(tmp_path):
    word_tokenizer(eos_token="<eos>").save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token_id == loaded.eos_token_id == 0


def test_a_missing_eos_token_is_an_error(tmp_path):
    word_tokenizer(pad_token="<pad>").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no EOS token"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file.txt"):
        (tmp_path / "file.txt").write_text("x")
        with pytest.raises(ModelError) as caught:
            load_tokenizer(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_vocabulary_must_hold_every_byte():
    with pytest.raises(ModelError, match=r"at least 258 .*, got 100"):
        train_tokenizer(TEXTS, 100)
