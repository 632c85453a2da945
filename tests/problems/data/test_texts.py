import json
import os
import platform
import random
from itertools import pairwise
from string import ascii_letters

import pytest
import torch

from optrepro.problems.data import texts
from optrepro.problems.data.texts import IGNORED, Bytes, Question
from optrepro.problems.networks import gpt

HANDED = os.environ.get("OPTREPRO_DATA")


@pytest.fixture(autouse=True)
def nothing_handed_over(monkeypatch):
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)


def load(name, root=None, **settings):
    sizes = {"context": 8, "train_examples": 1000, "validation_examples": 1000, "test_examples": 1000}
    return texts.load(name, data_dir=root, **{"seed": 0, **sizes, **settings})


def splits(data):
    return {"train": data.train, "validation": data.validation, "test": data.test}


def decoded(split):
    return [bytes(row) for row in split.images.tolist()]


@pytest.fixture
def shakespeare(tmp_path):
    """A running text of 11,000 random letters, in which every window of 8 is another one."""
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare/input.txt").write_text("".join(random.Random(0).choices(ascii_letters, k=11_000)))
    return tmp_path


def entry(n):
    return {"question": f"What is {n} and {n}?", "answer": f"It is {n} + {n} = {2 * n}.\n#### {2 * n}"}


@pytest.fixture
def gsm8k(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    for file, numbers in (("train", range(40)), ("test", range(100, 110))):
        lines = "".join(json.dumps(entry(n)) + "\n" for n in numbers)
        (tmp_path / f"gsm8k/{file}.jsonl").write_text(lines)
    return tmp_path


class Letters:
    """A tokenizer of a model of the hub, as it were: a token for the start, one for the end, and one for each byte."""

    vocabulary = 258
    start = (256,)
    end = 257

    def encode(self, text):
        return list(text.encode())

    def decode(self, tokens):
        return bytes(token for token in tokens if token < 256).decode()


def test_the_labels_are_the_tokens_shifted_by_one(shakespeare):
    running = (shakespeare / "tinyshakespeare/input.txt").read_bytes()
    for split in splits(load("tinyshakespeare", shakespeare)).values():
        assert torch.equal(split.images[:, 1:], split.labels[:, :-1])
        for tokens, labels in zip(decoded(split), split.labels.tolist(), strict=True):
            assert tokens + bytes(labels[-1:]) in running


def test_no_byte_is_in_two_windows_and_the_splits_lie_one_after_the_other(shakespeare):
    running = (shakespeare / "tinyshakespeare/input.txt").read_bytes()
    spans = []
    for name, split in splits(load("tinyshakespeare", shakespeare)).items():
        starts = [running.index(text) for text in decoded(split)]
        assert all(later - earlier >= 8 for earlier, later in pairwise(starts))
        spans.append((name, starts[0], starts[-1] + 8))  # exclusive of the last label, which may lie behind
    (_, _, train_end), (_, validation_start, validation_end), (_, test_start, _) = spans
    assert train_end < validation_start < validation_end < test_start
    assert [name for name, *_ in spans] == ["train", "validation", "test"]


def test_a_tenth_of_a_running_text_is_for_validation_and_a_tenth_for_testing(shakespeare):
    data = load("tinyshakespeare", shakespeare, train_examples=10**6)
    sizes = [len(split) for split in splits(data).values()]
    assert sizes == pytest.approx([0.8 * 11_000 / 8, 0.1 * 11_000 / 8, 0.1 * 11_000 / 8], abs=1)


def test_the_tensors_are_tokens_of_bytes(shakespeare):
    data = load("tinyshakespeare", shakespeare, train_examples=30)
    assert data.train.images.shape == data.train.labels.shape == (30, 8)
    assert data.train.images.dtype == data.train.labels.dtype == torch.int64
    assert (data.classes, data.input_shape) == (256, (8,))
    assert data.description == "Tiny Shakespeare (30 training and 137 test examples of 8 tokens)"


def test_the_seed_decides_which_examples_are_drawn(shakespeare):
    first, again, other = (load("tinyshakespeare", shakespeare, seed=seed, train_examples=30) for seed in (0, 0, 1))
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)


@pytest.mark.parametrize("name", ["python-docs", "python-source"])
def test_the_embedded_texts_need_no_files_and_record_which_python_they_are_of(name):
    data = load(name, context=64, train_examples=50)
    assert data.train.images.shape == (50, 64)
    (record,) = data.provenance
    assert record.file == name
    assert len(bytes.fromhex(record.sha256)) == 32
    assert platform.python_version() in record.note


def test_the_embedded_texts_are_those_of_the_language():
    docs = b"".join(decoded(load("python-docs", context=64, train_examples=10**6).train))
    assert b"lambda" in docs
    assert b"The standard type hierarchy" in docs or b"statement" in docs
    source = b"".join(decoded(load("python-source", context=64, train_examples=10**6).train))
    assert source.count(b"\n    def ") > 1000


def test_questions_and_answers_are_one_text_of_the_official_split(gsm8k):
    data = load("gsm8k", gsm8k, context=60)
    train, validation, test = (b"".join(decoded(split)).decode() for split in splits(data).values())
    assert train.startswith("Question: What is 0 and 0?\nAnswer: It is 0 + 0 = 0.\n#### 0\0Question: What is 1 and 1?")
    assert validation.startswith("Question: What is 36 and 36?")  # the last tenth of the training questions
    assert test.startswith("Question: What is 100 and 100?")
    assert "What is 36" not in train


def test_what_was_read_is_recorded(gsm8k):
    records = load("gsm8k", gsm8k).provenance
    assert [(record.file, record.examples) for record in records] == [
        ("gsm8k/train.jsonl", 40),
        ("gsm8k/test.jsonl", 10),
    ]
    assert not any(record.official for record in records)


def test_the_right_ending_is_the_answer_in_hellaswag(tmp_path):
    (tmp_path / "hellaswag").mkdir()
    line = json.dumps({"ctx": "A cat sits", "endings": ["on a mat.", "in a tree.", "a.", "b."], "label": 1})
    for file in ("train", "val"):
        (tmp_path / f"hellaswag/hellaswag_{file}.jsonl").write_text(line + "\n")
    (question,) = texts.questions("hellaswag", 1, tmp_path)
    assert question == Question("Question: A cat sits\nAnswer:", " in a tree.")


def test_only_the_answers_are_scored_with_a_tokenizer_of_the_hub(gsm8k):
    data = load("gsm8k", gsm8k, context=100, tokenizer=Letters())
    tokens, labels = data.test.images[0].tolist(), data.test.labels[0].tolist()
    text = "Question: What is 100 and 100?\nAnswer: It is 100 + 100 = 200.\n#### 200"
    answer = " It is 100 + 100 = 200.\n#### 200"
    assert tokens[0] == 256
    assert Letters().decode(tokens) == text
    assert [label for label in labels if label != IGNORED] == [*answer.encode(), 257]
    assert labels.index(ord(" ")) == len("Question: What is 100 and 100?\nAnswer:")  # after the start token
    for token, label in zip(tokens[1:], labels, strict=False):
        assert label in (IGNORED, token)
    assert data.classes == 258
    assert len(data.train) == 36


def test_an_example_without_room_for_an_answer_is_left_out(gsm8k):
    (gsm8k / "gsm8k/test.jsonl").write_text(
        json.dumps({"question": "x" * 200, "answer": "y"}) + "\n" + json.dumps(entry(1))
    )
    data = load("gsm8k", gsm8k, context=40, tokenizer=Letters())
    assert len(data.test) == 1
    assert (data.train.labels != IGNORED).any(1).all()
    assert data.train.images.shape == (36, 40)


def test_a_running_text_is_read_in_windows_of_the_hubs_tokens_too(shakespeare):
    data = load("tinyshakespeare", shakespeare, tokenizer=Letters())
    assert torch.equal(data.train.images, load("tinyshakespeare", shakespeare).train.images)
    assert (data.train.labels != IGNORED).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 1}, "context = 1 is not at least 2"),
        ({"train_examples": 0}, "train_examples = 0 is not at least 1"),
        ({"context": 2000}, "too short for examples of context = 2000 tokens"),
    ],
)
def test_impossible_sizes_are_refused(shakespeare, settings, message):
    with pytest.raises(ValueError, match=message):
        load("tinyshakespeare", shakespeare, **settings)


def test_a_damaged_file_is_named(gsm8k):
    (gsm8k / "gsm8k/test.jsonl").write_text('{"question": "cut o')
    with pytest.raises(ValueError, match=r"test\.jsonl is damaged: expected a question in each line"):
        load("gsm8k", gsm8k)


def test_images_are_no_text():
    with pytest.raises(ValueError, match=r"name = 'digits' is not allowed; it is a set of images, see images\.load"):
        load("digits")


def test_only_questions_can_be_asked(gsm8k, shakespeare):
    assert len(texts.questions("gsm8k", 10, gsm8k)) == 10
    with pytest.raises(ValueError, match=r"count = 11 is not in \[1, 10\]"):
        texts.questions("gsm8k", 11, gsm8k)
    with pytest.raises(ValueError, match="tinyshakespeare has no questions"):
        texts.questions("tinyshakespeare", 1, shakespeare)


@pytest.mark.skipif(not HANDED, reason="OPTREPRO_DATA is not set")
def test_the_real_questions_are_all_read_and_each_has_a_number(monkeypatch):
    monkeypatch.setenv("OPTREPRO_DATA", HANDED)
    asked = texts.questions("gsm8k", 1319)
    assert all(gpt.final_number(question.answer) is not None for question in asked)
    assert Bytes().decode(Bytes().encode(asked[0].prompt)) == asked[0].prompt
