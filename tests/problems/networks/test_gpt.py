from decimal import Decimal

import pytest
import torch
from torch import nn

from optrepro.problems.data.texts import Question
from optrepro.problems.networks import gpt


def test_a_gpt_gives_logits_for_every_token_and_sees_no_later_one():
    module = gpt.gpt(256, 16, 32, 2, 2, seed=0)
    tokens = torch.randint(256, (3, 16))
    logits = module(tokens)
    assert logits.shape == (3, 16, 256)
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 256
    torch.testing.assert_close(module(changed)[:, :10], logits[:, :10])
    assert not torch.allclose(module(changed)[:, 10:], logits[:, 10:])


def test_the_weights_of_a_gpt_are_a_function_of_the_seed_and_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, again, other = (gpt.gpt(256, 16, 32, 1, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_a_gpt_is_made_and_used_without_a_warning(recwarn, capfd):
    gpt.gpt(256, 16, 32, 1, 2, seed=0).train()(torch.randint(256, (2, 16))).sum().backward()
    assert not recwarn.list
    assert capfd.readouterr().err == ""


def test_a_gpt_learns_a_text_by_heart():
    module = gpt.gpt(256, 8, 32, 1, 2, seed=0)
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
        gpt.gpt(**{"vocabulary": 256, "context": 8, "width": 32, "layers": 1, "heads": 2, "seed": 0, **sizes})


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
    assert gpt.final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "the answer is 18", "### 18", "#### eighteen", "####"])
def test_without_a_number_after_the_mark_there_is_no_answer(text):
    assert gpt.final_number(text) is None


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
    module = gpt.gpt(256, 24, 32, 2, 2, seed=3).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(4)  # sharp logits, so that answers differ and no two tokens are equally likely
    prompts = [list(b"a"), list(b"a longer one"), list(b"another"), [0, 5, 0], list(b"a")]
    answers = module.generate(prompts, 12, end)
    assert answers == [read_again_for_every_token(module, prompt, 12, end) for prompt in prompts]
    assert len({tuple(answer) for answer in answers}) == 4


def test_generation_stops_at_the_end_of_a_text():
    module = gpt.gpt(256, 24, 32, 2, 2, seed=3).eval()
    [answer] = module.generate([list(b"ab")], 12, end=0)
    for position, token in enumerate(answer):
        assert module.generate([list(b"ab")], 12, end=token)[0] == answer[: answer.index(token)]
        assert module.generate([list(b"ab")], position + 1, end=0) == [answer[: position + 1]]


def test_what_a_model_says_of_sampling_changes_no_answer():
    from transformers import GenerationConfig

    module = gpt.gpt(256, 24, 32, 2, 2, seed=3).eval()
    expected = module.generate([list(b"ab")], 12, end=0)
    module.network.generation_config = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0)
    assert module.generate([list(b"ab")], 12, end=0) == expected


def test_a_model_that_knows_the_answers_matches_all_and_one_that_knows_half_matches_half():
    asked = [Question(f"Question: {n}?\nAnswer:", f" so it is {n},000\n#### {n},000") for n in range(1, 5)]
    known = [f"Question: {n}?\nAnswer: by another way\n#### {n}000" for n in range(1, 5)]
    wrong = [known[0], known[1], known[2] + "0", "Question: 4?\nAnswer: 4000"]
    assert gpt.exact_matches(Scripted(*known), asked, context=120) == 4
    assert gpt.exact_matches(Scripted(*wrong), asked, context=120) == 2


def test_a_long_question_keeps_its_last_tokens():
    module = Scripted("x" * 8 + "ab")
    assert gpt.exact_matches(module, [Question("x" * 100 + "ab", "\n#### 7")], context=20, new_tokens=50) == 0
    assert module.asked == [list(b"xxxxxxxxab")]


def test_a_question_without_a_number_to_find_is_an_error():
    with pytest.raises(ValueError, match="holds no '#### number'"):
        gpt.exact_matches(Scripted("a"), [Question("a", " b")], context=8)
