import json
import os
import platform
import random
from decimal import Decimal
from itertools import pairwise
from string import ascii_letters

import pytest
import torch
from torch import nn

from optrepro.problems.data import texts as language
from optrepro.problems.data.texts import IGNORED, Bytes, Question

HANDED = os.environ.get("OPTREPRO_DATA")


@pytest.fixture(autouse=True)
def nothing_handed_over(monkeypatch):
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)


def load(name, root=None, **settings):
    sizes = {"context": 8, "train_examples": 1000, "validation_examples": 1000, "test_examples": 1000}
    return language.load(name, data_dir=root, **{"seed": 0, **sizes, **settings})


def splits(data):
    return {"train": data.train, "validation": data.validation, "test": data.test}


def texts(split):
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
        for tokens, labels in zip(texts(split), split.labels.tolist(), strict=True):
            assert tokens + bytes(labels[-1:]) in running


def test_no_byte_is_in_two_windows_and_the_splits_lie_one_after_the_other(shakespeare):
    running = (shakespeare / "tinyshakespeare/input.txt").read_bytes()
    spans = []
    for name, split in splits(load("tinyshakespeare", shakespeare)).items():
        starts = [running.index(text) for text in texts(split)]
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
    docs = b"".join(texts(load("python-docs", context=64, train_examples=10**6).train))
    assert b"lambda" in docs
    assert b"The standard type hierarchy" in docs or b"statement" in docs
    source = b"".join(texts(load("python-source", context=64, train_examples=10**6).train))
    assert source.count(b"\n    def ") > 1000


def test_questions_and_answers_are_one_text_of_the_official_split(gsm8k):
    data = load("gsm8k", gsm8k, context=60)
    train, validation, test = (b"".join(texts(split)).decode() for split in splits(data).values())
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
    (question,) = language.questions("hellaswag", 1, tmp_path)
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
    with pytest.raises(ValueError, match=r"digits is a set of images, not a text: see datasets\.load"):
        load("digits")


def test_a_gpt_gives_logits_for_every_token_and_sees_no_later_one():
    module = language.gpt(256, 16, 32, 2, 2, seed=0)
    tokens = torch.randint(256, (3, 16))
    logits = module(tokens)
    assert logits.shape == (3, 16, 256)
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 256
    torch.testing.assert_close(module(changed)[:, :10], logits[:, :10])
    assert not torch.allclose(module(changed)[:, 10:], logits[:, 10:])


def test_the_weights_of_a_gpt_are_a_function_of_the_seed_and_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, again, other = (language.gpt(256, 16, 32, 1, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_a_gpt_is_made_and_used_without_a_warning(recwarn, capfd):
    language.gpt(256, 16, 32, 1, 2, seed=0).train()(torch.randint(256, (2, 16))).sum().backward()
    assert not recwarn.list
    assert capfd.readouterr().err == ""


def test_a_gpt_learns_a_text_by_heart():
    module = language.gpt(256, 8, 32, 1, 2, seed=0)
    data = torch.tensor([list(b"abcdefghi")])
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten()).backward()
        optimizer.step()
    assert module.generate([list(b"ab"), list(b"abc")], 4, end=0) == [list(b"cdef"), list(b"defg")]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"heads": 3}, "width = 32 is not a multiple of heads = 3"), ({"layers": 0}, "layers = 0 is not at least 1")],
)
def test_impossible_architectures_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        language.gpt(**{"vocabulary": 256, "context": 8, "width": 32, "layers": 1, "heads": 2, "seed": 0, **sizes})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 9 * 2 = 18.\n#### 18", "18"),
        ("#### 1,234,567", "1234567"),
        ("####-5", "-5"),
        ("#### $2.50\n", "2.5"),
        ("#### -$7", "-7"),
        ("#### 18.", "18"),
        ("#### .5", "0.5"),
        ("#### 3 apples #### 4", "3"),
    ],
)
def test_the_number_after_the_mark_is_the_answer(text, number):
    assert language.final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "the answer is 18", "### 18", "#### eighteen", "####"])
def test_without_a_number_after_the_mark_there_is_no_answer(text):
    assert language.final_number(text) is None


class Scripted:
    """A model that has read the scripts: whatever text one of them begins with, it goes on as the script does."""

    def __init__(self, *scripts):
        self.scripts = scripts
        self.asked = []

    def generate(self, prompts, new_tokens, end):
        self.asked += prompts
        texts = [bytes(prompt).decode() for prompt in prompts]
        rests = [next(script[len(text) :] for script in self.scripts if script.startswith(text)) for text in texts]
        return [list(rest.encode())[:new_tokens] for rest in rests]


def read_again_for_every_token(module, prompt, new_tokens, end):
    tokens = list(prompt)
    for _ in range(new_tokens):
        tokens.append(int(module(torch.tensor([tokens]))[0, -1].argmax()))
    answer = tokens[len(prompt) :]
    return answer[: answer.index(end)] if end in answer else answer


@pytest.mark.parametrize("end", [0, 70])
def test_cached_generation_of_many_is_plain_generation_of_each(end):
    module = language.gpt(256, 24, 32, 2, 2, seed=3).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(4)  # sharp logits, so that answers differ and no two tokens are equally likely
    prompts = [list(b"a"), list(b"a longer one"), list(b"another"), [0, 5, 0], list(b"a")]
    answers = module.generate(prompts, 12, end)
    assert answers == [read_again_for_every_token(module, prompt, 12, end) for prompt in prompts]
    assert len({tuple(answer) for answer in answers}) == 4


def test_generation_stops_at_the_end_of_a_text():
    module = language.gpt(256, 24, 32, 2, 2, seed=3).eval()
    [answer] = module.generate([list(b"ab")], 12, end=0)
    for position, token in enumerate(answer):
        assert module.generate([list(b"ab")], 12, end=token)[0] == answer[: answer.index(token)]
        assert module.generate([list(b"ab")], position + 1, end=0) == [answer[: position + 1]]


def test_what_a_model_says_of_sampling_changes_no_answer():
    from transformers import GenerationConfig

    module = language.gpt(256, 24, 32, 2, 2, seed=3).eval()
    expected = module.generate([list(b"ab")], 12, end=0)
    module.network.generation_config = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0)
    assert module.generate([list(b"ab")], 12, end=0) == expected


def test_a_model_that_knows_the_answers_matches_all_and_one_that_knows_half_matches_half():
    asked = [Question(f"Question: {n}?\nAnswer:", f" so it is {n},000\n#### {n},000") for n in range(1, 5)]
    known = [f"Question: {n}?\nAnswer: by another way\n#### {n}000" for n in range(1, 5)]
    wrong = [known[0], known[1], known[2] + "0", "Question: 4?\nAnswer: 4000"]
    assert language.exact_matches(Scripted(*known), asked, context=120) == 4
    assert language.exact_matches(Scripted(*wrong), asked, context=120) == 2


def test_a_long_question_keeps_its_last_tokens():
    module = Scripted("x" * 8 + "ab")
    assert language.exact_matches(module, [Question("x" * 100 + "ab", "\n#### 7")], context=20, new_tokens=50) == 0
    assert module.asked == [list(b"xxxxxxxxab")]


def test_a_question_without_a_number_to_find_is_an_error():
    with pytest.raises(ValueError, match="holds no '#### number'"):
        language.exact_matches(Scripted("a"), [Question("a", " b")], context=8)


def test_only_questions_can_be_asked(gsm8k, shakespeare):
    assert len(language.questions("gsm8k", 10, gsm8k)) == 10
    with pytest.raises(ValueError, match=r"count = 11 is not in \[1, 10\]"):
        language.questions("gsm8k", 11, gsm8k)
    with pytest.raises(ValueError, match="tinyshakespeare has no questions"):
        language.questions("tinyshakespeare", 1, shakespeare)


@pytest.mark.skipif(not HANDED, reason="OPTREPRO_DATA is not set")
def test_the_real_questions_are_all_read_and_each_has_a_number(monkeypatch):
    monkeypatch.setenv("OPTREPRO_DATA", HANDED)
    asked = language.questions("gsm8k", 1319)
    assert all(language.final_number(question.answer) is not None for question in asked)
    assert Bytes().decode(Bytes().encode(asked[0].prompt)) == asked[0].prompt
