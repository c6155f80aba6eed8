import shutil
from pathlib import Path

import pytest
from reward_support import dialogsum_rows, hh_rows, paradetox_rows, tiny_policy, write_jsonl

from textgym.cache import cached, fingerprint, model_fingerprint, report_of
from textgym.errors import ConfigError, DataError, RewardError
from textgym.rewards.detoxify import Toxicity
from textgym.rewards.learned import RewardModel
from textgym.rewards.train_toxicity import ToxicityConfig
from textgym.tasks import load_task, paradetox
from textgym.tasks.dialogsum import mean_rouge
from textgym.tasks.paradetox import common_opening, labelled_texts

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it has read; a test must not read another's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("TEXTGYM_CACHE", str(tmp_path / "textgym"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    rows = dialogsum_rows(40)
    texts = [row["dialogue"] for row in rows] + [row["summary"] for row in rows]
    folder = tmp_path_factory.mktemp("backbone")
    tiny_policy(texts, vocab_size=400, context=128).save(folder)
    return str(folder)


@pytest.fixture
def dialogsum(tmp_path):
    write_jsonl(tmp_path / "ds" / "train.jsonl", dialogsum_rows(24))
    write_jsonl(tmp_path / "ds" / "test.jsonl", dialogsum_rows(6, references=3, offset=100))
    return tmp_path / "ds"


@pytest.fixture
def detox(tmp_path):
    write_jsonl(tmp_path / "pd" / "train.jsonl", paradetox_rows(60))
    write_jsonl(tmp_path / "pd" / "test.jsonl", paradetox_rows(8, offset=100))
    return tmp_path / "pd"


@pytest.fixture
def hh(tmp_path):
    write_jsonl(tmp_path / "hh" / "harmless-base" / "train.jsonl.gz", hh_rows(30))
    write_jsonl(tmp_path / "hh" / "harmless-base" / "test.jsonl.gz", hh_rows(6, offset=100))
    return tmp_path / "hh"


def columns_of(rows):
    return {name: rows[name][:] for name in rows.column_names if name != "prompt"}


# --- DialogSum ---------------------------------------------------------------------------------


def test_dialogsum_groups_references_and_keeps_one_for_the_human(dialogsum, backbone):
    task = load_task("summarize", data=dialogsum, backbone=backbone)
    rows = task.prompts("test")
    assert len(rows) == 6
    first = rows[0]
    raw = dialogsum_rows(1, references=3, offset=100)
    assert first["prompt"] == f"Dialogue: {raw[0]['dialogue']}\nSummary:"
    assert first["reference"] == " " + raw[0]["summary"]
    assert first["references"] == [" " + raw[1]["summary"], " " + raw[2]["summary"]]
    # One reference is both the human's and the judge's.
    train = task.prompts("train")[0]
    assert train["references"] == [train["reference"]]


def test_dialogsum_carves_validation_from_train_and_never_otherwise(dialogsum, backbone):
    task = load_task("summarize", data=dialogsum, backbone=backbone)
    train, validation = task.prompts("train")["prompt"][:], task.prompts("validation")["prompt"][:]
    assert len(train) + len(validation) == 24
    assert not set(train) & set(validation)
    again = load_task("summarize", data=str(dialogsum), backbone=backbone, seed=5)
    assert again.prompts("validation")["prompt"][:] == validation
    write_jsonl(dialogsum / "validation.jsonl", dialogsum_rows(3, offset=200))
    published = load_task("summarize", data=dialogsum, backbone=backbone)
    assert len(published.prompts("train")) == 24
    assert len(published.prompts("validation")) == 3


def test_dialogsum_gold_is_mean_rouge_against_the_best_reference(dialogsum, backbone):
    task = load_task("summarize", data=dialogsum, backbone=backbone)
    # ROUGE-1 6/7, ROUGE-2 4/5, ROUGE-L 6/7 against the second reference; see test_rewards_rules.
    references = [["no overlap here", "the cat sat down"]]
    gold = task.gold(["p"], ["the cat sat"], references=references)
    assert gold == pytest.approx([(6 / 7 + 4 / 5 + 6 / 7) / 3])
    assert mean_rouge(["x"], ["x x"]) == pytest.approx([(2 / 3 + 0 + 2 / 3) / 3])
    assert sorted(task.measures(["p"], ["the cat"], references=references)) == [
        "rouge1",
        "rouge2",
        "rougeL",
    ]
    assert task.modes(["p"], ["the cat"]) is None
    with pytest.raises(RewardError, match="column 'references'"):
        task.gold(["p"], ["the cat"])


def test_overlong_dialogues_lose_their_first_turns(dialogsum, backbone):
    whole = load_task("summarize", data=dialogsum, backbone=backbone).prompts("train")[0]["prompt"]
    task = load_task("summarize", data=dialogsum, backbone=backbone)
    lengths = {"all": task.tokenizer(whole)["input_ids"]}
    narrow = load_task(
        "summarize", data=dialogsum, backbone=backbone, max_prompt_tokens=len(lengths["all"]) - 1
    )
    cut = next(p for p in narrow.prompts("train")["prompt"] if whole.endswith(p[-40:]))
    turns = whole.removeprefix("Dialogue: ").splitlines(keepends=True)
    assert cut == "Dialogue: " + "".join(turns[1:])
    with pytest.raises(DataError, match=r"'train' has no usable row.*at most 4 tokens"):
        load_task("summarize", data=dialogsum, backbone=backbone, max_prompt_tokens=4).prompts(
            "train"
        )


def test_sizes_cap_the_rows(dialogsum, backbone):
    task = load_task("summarize", data=dialogsum, backbone=backbone, train=5, demonstrations=3)
    assert len(task.prompts("train")) == 5
    assert len(task.demonstrations()) == 3
    assert task.demonstrations().column_names == ["prompt", "completion"]


def test_dialogsum_trains_its_reward_once_and_caches_it(dialogsum, backbone, tmp_path, monkeypatch):
    options = {"data": dialogsum, "backbone": backbone, "train": 8, "max_response_tokens": 8}
    task = load_task("summarize", **options)
    rows = task.prompts("test")
    first = task.reward(rows["prompt"][:], rows["reference"][:], **columns_of(rows))
    assert len(set(first)) > 1
    (folder,) = (tmp_path / "textgym").iterdir()
    assert folder.name.startswith("reward-")
    assert report_of(folder)["pairs"] == 8 * 6
    monkeypatch.setattr(
        "textgym.tasks.learned_proxy.train_reward_model", lambda *a: pytest.fail("trained again")
    )
    again = load_task("summarize", **options)
    assert again.reward(rows["prompt"][:], rows["reference"][:]) == pytest.approx(first, abs=1e-6)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        load_task("summarize", **options, seed=1).reward(["p"], ["c"])


# --- ParaDetox ---------------------------------------------------------------------------------


def test_common_opening_by_hand():
    assert common_opening("A b c d", "a B x") == ("A b", "c d", "x")
    assert common_opening("a b", "a b c") == ("a b", "", "c")
    assert common_opening("x", "y") == ("", "x", "y")


def test_paradetox_prompts_with_what_both_comments_begin_with(detox, backbone):
    task = load_task("toxicity", data=detox, backbone=backbone)
    row = task.prompts("test")[0]
    assert row["prompt"] == "i think the boat 100 is"
    assert row["reference"] == " not for everyone"
    assert row["toxic"] == " for silly clowns"
    completions = task.demonstrations()["completion"][:]
    assert set(completions) == {" not for everyone", " for silly clowns"}
    assert completions.count(" not for everyone") == len(completions) / 2
    assert task.eval_samples_per_prompt == 25


def test_paradetox_leaves_out_pairs_without_a_common_opening(tmp_path, backbone):
    short = [{"en_toxic_comment": "you twit", "en_neutral_comment": "you are wrong"}]
    write_jsonl(tmp_path / "x" / "train.jsonl", short * 3 + paradetox_rows(40))
    write_jsonl(tmp_path / "x" / "test.jsonl", short)
    task = load_task("toxicity", data=tmp_path / "x", backbone=backbone)
    assert all(prompt.startswith("i think") for prompt in task.prompts("train")["prompt"])
    with pytest.raises(DataError, match="'test' has no usable row"):
        task.prompts("test")


def test_paradetox_trains_two_classifiers_on_different_halves(
    detox, backbone, tmp_path, monkeypatch
):
    config = ToxicityConfig(
        vocab_size=350, width=16, heads=2, layers=1, epochs=10, batch_size=8, learning_rate=1e-2
    )
    monkeypatch.setattr("textgym.rewards.train_toxicity.ToxicityConfig", lambda: config)
    task = load_task("toxicity", data=detox, backbone=backbone)
    rows = task.prompts("test")
    prompts, columns = rows["prompt"][:], columns_of(rows)
    kind, rude = rows["reference"][:], rows["toxic"][:]
    for judge in (task.reward, task.gold):
        # Both have three distinct words of the four that earn full substance.
        assert all(0.5 < score <= 0.75 for score in judge(prompts, kind, **columns))
        assert all(0.0 <= score < 0.25 for score in judge(prompts, rude, **columns))
        assert judge(prompts, [""] * len(prompts), **columns) == [0.0] * len(prompts)
    assert task.reward(prompts, kind) != task.gold(prompts, kind)
    measures = task.measures(prompts, rude, **columns)
    assert measures["toxicity"] != measures["proxy_toxicity"]
    assert len(list((tmp_path / "textgym").iterdir())) == 2


def test_the_two_classifiers_share_no_text_and_no_seed(detox, backbone, monkeypatch):
    seen = []

    def record(texts, labels, out, config, seed):
        seen.append((set(texts), seed))
        return {}

    monkeypatch.setattr("textgym.rewards.train_toxicity.train_toxicity", record)
    monkeypatch.setattr("textgym.rewards.detoxify.Toxicity", lambda folder, **options: folder)
    task = load_task("toxicity", data=detox, backbone=backbone)
    assert task.classifier != task.gold_classifier
    (first, seed), (second, other_seed) = seen
    whole = set(task.raw["train"][paradetox.TOXIC])
    assert first & whole
    assert not first & second & whole
    assert (first | second) >= whole
    assert seed != other_seed


def test_labelled_texts_hold_comments_and_their_continuations():
    texts, labels = labelled_texts(["you are a clown", "twit"], ["you are wrong", "no"])
    assert texts == ["you are a clown", "you are wrong", "a clown", "wrong", "twit", "no"]
    assert labels == [1, 0, 1, 0, 1, 0]


# --- HH-RLHF -----------------------------------------------------------------------------------


class Calm:
    def predict(self, texts):
        return {"toxicity": [0.1] * len(texts) if len(texts) > 1 else 0.1}


def test_hh_splits_dialogues_at_the_last_answer(hh, backbone):
    task = load_task("toxicity", data=hh, data_dir="harmless-base", backbone=backbone)
    row = task.prompts("test")[0]
    assert row["prompt"].startswith("\n\nHuman: Hello.\n\nAssistant: Hi there.")
    assert row["prompt"].endswith("\n\nHuman: Where is the boat 100?\n\nAssistant:")
    assert row["reference"] == " It is near gate 100."
    assert row["rejected"] == " No idea."
    assert not task.has_gold
    with pytest.raises(RewardError, match="no gold judge"):
        task.gold(["p"], ["c"])


def test_overlong_hh_dialogues_lose_their_first_rounds(hh, backbone):
    task = load_task("toxicity", data=hh, data_dir="harmless-base", backbone=backbone)
    last = "\n\nHuman: Where is the boat 100?\n\nAssistant:"
    window = len(task.tokenizer(last)["input_ids"])
    narrow = load_task(
        "toxicity", data=hh, data_dir="harmless-base", backbone=backbone, max_prompt_tokens=window
    )
    assert narrow.prompts("test")[0]["prompt"] == last


def test_hh_leaves_out_what_is_no_comparison(tmp_path, backbone):
    empty = {"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}
    other = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Yes",
        "rejected": "\n\nHuman: Ho\n\nAssistant: No",
    }
    write_jsonl(tmp_path / "x" / "train.jsonl", hh_rows(30))
    write_jsonl(tmp_path / "x" / "test.jsonl", [empty, other, *hh_rows(2)])
    task = load_task("toxicity", data=tmp_path / "x", backbone=backbone)
    assert len(task.prompts("test")) == 2


def test_hh_reward_is_learned_from_its_pairs(hh, backbone):
    options = {"data_dir": "harmless-base", "backbone": backbone, "max_response_tokens": 8}
    task = load_task("toxicity", data=hh, classifier=Toxicity(Calm()), **options)
    rows = task.prompts("test")
    assert isinstance(task.proxy, RewardModel)
    assert len(task.reward(rows["prompt"][:], rows["reference"][:])) == 6
    assert task.measures(["p", "q"], ["c", "d"]) == {"toxicity": [0.1, 0.1]}


# --- What goes wrong ----------------------------------------------------------------------------


def test_missing_columns_are_named(tmp_path, detox):
    write_jsonl(tmp_path / "x" / "train.jsonl", [{"dialogue": "a", "abstract": "b"}])
    write_jsonl(tmp_path / "x" / "test.jsonl", [{"dialogue": "a", "abstract": "b"}])
    write_jsonl(tmp_path / "x" / "validation.jsonl", [{"dialogue": "a", "abstract": "b"}])
    with pytest.raises(DataError, match="no column 'summary'; its columns are dialogue, abstract"):
        load_task("summarize", data=tmp_path / "x")
    with pytest.raises(DataError, match=r"chosen and rejected; its columns are dialogue, abstract"):
        load_task("toxicity", data=tmp_path / "x")
    with pytest.raises(DataError, match="no column 'dialogue'"):
        load_task("summarize", data=detox)


def test_data_sets_that_cannot_be_read(tmp_path, dialogsum):
    with pytest.raises(DataError, match="cannot read data set"):
        load_task("summarize", data=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot read data set"):
        load_task("summarize", data=tmp_path / "empty")
    (dialogsum / "train.jsonl").unlink()
    with pytest.raises(DataError, match="no train split; its splits are test"):
        load_task("summarize", data=dialogsum)


def test_an_empty_split_is_an_error(tmp_path):
    write_jsonl(tmp_path / "x" / "train.jsonl", dialogsum_rows(1))
    write_jsonl(tmp_path / "x" / "test.jsonl", dialogsum_rows(1))
    # One row cannot give both a train and a validation split.
    with pytest.raises(DataError, match=r"split '(train|validation)' is empty"):
        load_task("summarize", data=tmp_path / "x")


# --- The cache ----------------------------------------------------------------------------------


def test_the_cache_is_written_whole_or_not_at_all(tmp_path):
    root = tmp_path / "cache"

    def fail(folder):
        (folder / "half").write_text("x")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cached(root, "thing", {"a": 1}, fail)
    assert not list(root.iterdir())

    def build(folder):
        (folder / "whole").write_text("x")
        return {"made": 1}

    folder = cached(root, "thing", {"a": 1}, build)
    assert sorted(path.name for path in folder.iterdir()) == ["entry.json", "whole"]
    assert cached(root, "thing", {"a": 1}, fail) == folder
    assert report_of(folder) == {"made": 1}
    assert cached(root, "thing", {"a": 2}, build) != folder


def test_a_cache_that_another_process_filled_meanwhile_is_used(tmp_path):
    def build(folder):
        return {"by": cached(tmp_path, "thing", {}, lambda inner: {"by": "other"}).name}

    folder = cached(tmp_path, "thing", {}, build)
    assert report_of(folder) == {"by": "other"}
    assert [path.name for path in tmp_path.glob("*thing*")] == [folder.name]


def test_a_cache_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        cached(tmp_path / "file" / "x", "thing", {}, lambda folder: {})


def test_fingerprints_tell_contents_apart(tmp_path, backbone):
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    copy = shutil.copytree(backbone, tmp_path / "copy")
    assert model_fingerprint(copy) == model_fingerprint(backbone)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert model_fingerprint(copy) != model_fingerprint(backbone)
    assert model_fingerprint("org/model") == "org/model"


# --- The real thing -----------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data lies beside the clone only")
@pytest.mark.parametrize(
    ("name", "folder", "data_dir"),
    [
        ("summarize", "dialogsum", None),
        ("toxicity", "paradetox", None),
        ("toxicity", "hh-rlhf", "harmless-base"),
    ],
)
def test_real_data_gives_prompts_of_every_split(name, folder, data_dir, backbone):
    sizes = {"train": 40, "validation": 20, "test": 30, "max_prompt_tokens": 256}
    task = load_task(name, data=SHARED / folder, data_dir=data_dir, backbone=backbone, **sizes)
    for split in ("train", "validation", "test"):
        rows = task.prompts(split)
        assert len(rows) == sizes[split]
        assert {"prompt", "reference"} <= set(rows.column_names)
