"""Causal language models: texts as tokens, a small GPT, models of the hub, and answers by generation.

The small GPT reads bytes, in windows of the running text, and every token is scored. A model of the hub reads tokens of
its own; of questions it is given whole examples, and only the answers are scored.
"""

import json
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optrepro.problems import archives, backbones
from optrepro.problems.archives import Archive
from optrepro.problems.datasets import Dataset, FileRecord, Split
from optrepro.problems.networks import seeded

HELD_OUT = 0.1  # share of a text for validation, and for testing where no split is official (chosen)
IGNORED = -100  # label of a token that is not scored: `ignore_index` of torch's cross-entropy

Tokens = NDArray[np.int64]


class Tokenizer(Protocol):
    """Text as integers below `vocabulary`; `start` opens a text and `end` closes it."""

    vocabulary: int
    start: tuple[int, ...]
    end: int

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without start or end."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""


class Bytes:
    """UTF-8: every byte is a token. Byte 0, which no text holds, ends a text."""

    vocabulary: int = 256
    start: tuple[int, ...] = ()
    end: int = 0

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Tokenizer`; bytes that are no UTF-8 are replaced."""
        return bytes(tokens).decode(errors="replace")


@dataclass(frozen=True)
class Question:
    """A question and its answer; the text is one after the other."""

    prompt: str
    answer: str


Text = bytes | Sequence[Question]


def load(
    name: str,
    *,
    seed: int,
    context: int,
    train_examples: int,
    validation_examples: int,
    test_examples: int,
    tokenizer: Tokenizer | None = None,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
) -> Dataset:
    """Load a text that is at hand, see `archives.at_hand`, cut into examples of `context` tokens and their labels.

    A running text is split by position: 80 % for training, 10 % for validation, 10 % for testing. Of questions the
    last 10 % of the official training set are for validation. Examples of bytes are windows that do not overlap.

    Args:
        name: python-docs, python-source, tinyshakespeare, gsm8k or hellaswag.
        seed: decides which examples are drawn.
        context: tokens of an example; the labels are the tokens after each.
        train_examples, validation_examples, test_examples: as many are drawn, or as many as there are.
        tokenizer: of a model of the hub. Questions then become one example each, cut off or padded to `context`, and
            only their answers are scored; those without room for an answer are left out. By default bytes.
        data_dir: where to look after ``OPTREPRO_DATA``; the project's ``data/`` by default.
        device: where the tensors live.

    Returns a data set with int64 `images` (N, context) and `labels` (N, context); `classes` is the vocabulary's size.

    Raises ValueError for an unknown name, a number below 1, a text that is too short, or a damaged file, which it
    names; FileNotFoundError if the files are not at hand.
    """
    sizes = (train_examples, validation_examples, test_examples)
    for argument, value in zip(("train_examples", "validation_examples", "test_examples"), sizes, strict=True):
        if value < 1:
            raise ValueError(f"{argument} = {value} is not at least 1")
    if context < 2:
        raise ValueError(f"context = {context} is not at least 2")
    parts, provenance = _read(name, data_dir or archives.DATA_DIR)
    rng = np.random.default_rng(seed)
    splits: list[Split] = []
    for part, size in zip(parts, sizes, strict=True):
        tokens, labels = _examples(part, context, tokenizer)
        if len(tokens) == 0:
            raise ValueError(f"{name}: a part of it is too short for examples of context = {context} tokens")
        drawn = np.sort(rng.permutation(len(tokens))[:size])
        splits.append(Split(*(torch.tensor(array[drawn], device=device) for array in (tokens, labels))))
    train, validation, test = splits
    return Dataset(name, train, validation, test, (tokenizer or Bytes()).vocabulary, (context,), provenance)


def questions(name: str, count: int, data_dir: Path | None = None) -> Sequence[Question]:
    """The first questions of a test set. Raises ValueError for a text that has none, or fewer; see `load`."""
    (_, _, test), _ = _read(name, data_dir or archives.DATA_DIR)
    if isinstance(test, bytes):
        raise ValueError(f"{name} has no questions: gsm8k and hellaswag have")
    if not 1 <= count <= len(test):
        raise ValueError(f"count = {count} is not in [1, {len(test)}], the test questions of {name} at hand")
    return test[:count]


class LanguageModel(nn.Module):
    """A causal language model of `transformers` that takes tokens (B, T) and returns logits (B, T, vocabulary)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, vocabulary)."""
        logits: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        return logits

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int, end: int) -> list[list[int]]:
        """The likeliest next token, again and again: what follows each prompt, up to and without the token `end`."""
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        padded = torch.tensor([[end] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        read = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        # All of the settings, because what a model of the hub brings along fills in those that a call leaves out.
        network: Any = self.network
        network.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=new_tokens, do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=end
        )
        device = next(self.parameters()).device
        both = network.generate(padded.to(device), attention_mask=read.to(device))
        written: list[list[int]] = both[:, width:].tolist()
        return [answer[: answer.index(end)] if end in answer else answer for answer in written]


def gpt(vocabulary: int, context: int, width: int, layers: int, heads: int, seed: int) -> nn.Module:
    """GPT-2 of any size on the CPU, without dropout; its initial weights depend on these arguments alone.

    Args:
        vocabulary: number of tokens.
        context: the most tokens it can read.
        width: size of a token's representation, a multiple of `heads`; the blocks' perceptrons have 4 times as many.
        layers: number of blocks.
        heads: of the attention.
        seed: of the initialization; the global random states stay as they were.

    Raises ValueError for a size below 1, or a width that the heads do not divide.
    Source: Radford et al. 2019, in the form and with the initialization of `transformers`.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    backbones.check_sizes(vocabulary=vocabulary, context=context, width=width, layers=layers, heads=heads)
    settings = GPT2Config(  # type: ignore[call-arg]  # attn_implementation is an argument of every config
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # "gelu_new" in one operation: 15 % faster on a CPU
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        attn_implementation="sdpa",  # 10 % faster than "eager" on a CPU
    )
    with seeded(seed):
        return LanguageModel(GPT2LMHeadModel(settings))


class HubTokenizer:
    """The tokenizer of a model of the hub."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.vocabulary: int = len(tokenizer)
        self.start: tuple[int, ...] = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        self.end: int = tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return cast(list[int], self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return cast(str, self._tokenizer.decode(tokens))


def hub(name: str, revision: str, timeout: float = backbones.TIMEOUT) -> tuple[nn.Module, Tokenizer]:
    """A pretrained causal language model on the CPU, in float32, and its tokenizer.

    Args:
        name: "owner/model" on the hub, or a folder.
        revision: the commit of that model.
        timeout: seconds to wait for the hub if the model is not on this machine.

    Raises ConnectionError if the model is not on this machine and the hub cannot be reached.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = backbones.from_hub(AutoTokenizer.from_pretrained, name, revision, timeout)
    network = backbones.from_hub(AutoModelForCausalLM.from_pretrained, name, revision, timeout, dtype=torch.float32)
    return LanguageModel(network), HubTokenizer(tokenizer)


def exact_matches(
    module: LanguageModel,
    asked: Sequence[Question],
    *,
    context: int,
    tokenizer: Tokenizer | None = None,
    new_tokens: int = 256,
) -> int:
    """How many questions get an answer, generated greedily, that ends in the right number.

    Args:
        module: what is asked, all questions side by side.
        asked: questions whose answers end in "#### number", as GSM8K's do.
        context: the most tokens the module can read; a longer question keeps its last tokens.
        tokenizer: of the module; by default bytes.
        new_tokens: the longest answer; at most half of the context.

    Raises ValueError for a question whose own answer holds no such number.
    """
    reader: Tokenizer = tokenizer or Bytes()
    new_tokens = min(new_tokens, context // 2)
    prompts = [[*reader.start, *reader.encode(each.prompt)][new_tokens - context :] for each in asked]
    right = 0
    for question, answer in zip(asked, module.generate(prompts, new_tokens, reader.end), strict=True):
        wanted = final_number(question.answer)
        if wanted is None:
            raise ValueError(f"the answer {question.answer!r} holds no '#### number'")
        right += final_number(reader.decode(answer)) == wanted
    return right


def final_number(answer: str) -> Decimal | None:
    """The number after the first "####", without commas and currency; None if there is none."""
    found = re.search(r"####\s*(-?)\$?(\d[\d,]*(?:\.\d+)?|\.\d+)", answer)
    return Decimal((found[1] + found[2]).replace(",", "")) if found else None


def _examples(text: Text, context: int, tokenizer: Tokenizer | None) -> tuple[Tokens, Tokens]:
    """Tokens and labels, each (N, context), of all examples of a text."""
    if tokenizer is None:
        running = text if isinstance(text, bytes) else b"\0".join((q.prompt + q.answer).encode() for q in text)
        return _windows(np.frombuffer(running, np.uint8), context)
    if isinstance(text, bytes):
        return _windows(np.array(tokenizer.encode(text.decode(errors="replace"))), context)
    return _answers(text, context, tokenizer)


def _windows(running: NDArray[Any], context: int) -> tuple[Tokens, Tokens]:
    """Windows one after the other; only the label of a window's last token is the next window's first token."""
    count = max(0, (len(running) - 1) // context)
    tokens = running[: count * context].reshape(count, context)
    labels = running[1 : count * context + 1].reshape(count, context)
    return tokens.astype(np.int64), labels.astype(np.int64)


def _answers(asked: Sequence[Question], context: int, tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """One example for each question; only the answer and the end are scored."""
    rows = []
    for question in asked:
        prompt = [*tokenizer.start, *tokenizer.encode(question.prompt)]
        whole = [*prompt, *tokenizer.encode(question.answer), tokenizer.end][: context + 1]
        if len(whole) > len(prompt):
            padding = context + 1 - len(whole)
            scored = [IGNORED] * len(prompt) + whole[len(prompt) :] + [IGNORED] * padding
            rows.append((whole + [tokenizer.end] * padding, scored))
    both = np.array(rows, np.int64).reshape(-1, 2, context + 1)
    return both[:, 0, :-1], both[:, 1, 1:]


def _read(name: str, data_dir: Path) -> tuple[tuple[Text, Text, Text], tuple[FileRecord, ...]]:
    """Training, validation and test part of a text, and what was read."""
    archive = archives.archive(name)
    if archive.modality != "text":
        raise ValueError(f"{name} is a set of images, not a text: see datasets.load")
    if archive.embedded:
        running, record = _read_embedded(archive)
        return _split(running), (record,)
    located = archives.locate(name, data_dir)
    contents = [archives.read(path, located) for path in located.files]
    records = [
        FileRecord(path.relative_to(located.root).as_posix(), content.sha256, 1, content.official)
        for path, content in zip(located.files, contents, strict=True)
    ]
    if name not in _QUESTIONS:
        return _split(b"".join(content.data for content in contents)), tuple(records)
    train, test = (
        _parse_questions(path, content.data, _QUESTIONS[name])
        for path, content in zip(located.files, contents, strict=True)
    )
    records = [replace(record, examples=len(part)) for record, part in zip(records, (train, test), strict=True)]
    held_out = round(len(train) * HELD_OUT)
    return (train[: len(train) - held_out], train[len(train) - held_out :], test), tuple(records)


def _split(running: bytes) -> tuple[bytes, bytes, bytes]:
    """A running text, cut into training, validation and test part."""
    held_out = round(len(running) * HELD_OUT)
    left = len(running) - 2 * held_out
    return running[:left], running[left : left + held_out], running[left + held_out :]


def _read_embedded(archive: Archive) -> tuple[bytes, FileRecord]:
    """A text that comes with Python: its modules' sources, or the language reference that one module holds."""
    if archive.name == "python-docs":
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
        running = "\n".join(text for _, text in sorted(topics.items())).encode()
    else:
        running = b"\n".join(Path(_origin(module)).read_bytes() for module in archive.files)
    note = f"embedded in Python {platform.python_version()}, other versions have another text; no split is official"
    return running, FileRecord(archive.name, sha256(running).hexdigest(), 1, True, note)


def _origin(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"python-source: this Python has no source of its module {module}")
    return spec.origin


def _parse_questions(path: Path, data: bytes, form: Callable[[dict[str, Any]], Question]) -> list[Question]:
    """Questions from lines of JSON."""
    try:
        return [form(json.loads(line)) for line in data.splitlines() if line.strip()]
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"{path} is damaged: expected a question in each line, as JSON ({error!r}); delete the file and fetch or "
            "copy it again"
        ) from error


def _of_gsm8k(entry: dict[str, Any]) -> Question:
    return Question(f"Question: {entry['question']}\nAnswer:", f" {entry['answer']}")


def _of_hellaswag(entry: dict[str, Any]) -> Question:
    return Question(f"Question: {entry['ctx']}\nAnswer:", f" {entry['endings'][entry['label']]}")


_QUESTIONS: dict[str, Callable[[dict[str, Any]], Question]] = {"gsm8k": _of_gsm8k, "hellaswag": _of_hellaswag}
