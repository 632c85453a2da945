"""Texts as tokens for causal language models, and questions with answers.

The small GPT reads bytes in windows of a running text, and every token is scored. A hub model reads its own tokens; its
examples are single questions, of which only the answers are scored.
"""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from optrepro.damage import DamagedFileError
from optrepro.problems.data import archives
from optrepro.problems.data.archives import Archive
from optrepro.problems.data.images import Dataset, FileRecord, Split

HELD_OUT = 0.1  # chosen: share of a text for validation, and the same for testing if no split is official
IGNORED = -100  # label of a token that is not scored: `ignore_index` of torch's cross-entropy

Tokens = NDArray[np.int64]


class Tokenizer(Protocol):
    """Text as integers below `vocabulary`; `start` opens a text and `end` closes it."""

    vocabulary: int
    start: tuple[int, ...]
    end: int

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without start or end."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""


class Bytes:
    """UTF-8 bytes as tokens. Byte 0, which no text contains, ends a text."""

    vocabulary: int = 256
    start: tuple[int, ...] = ()
    end: int = 0

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Tokenizer`; bytes that are not UTF-8 are replaced."""
        return bytes(tokens).decode(errors="replace")


@dataclass(frozen=True)
class Question:
    """A question and its answer; its text is their concatenation."""

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
    """Load a text without a download, cut into examples of `context` tokens and their labels.

    A running text is split by position: 80 % for training, 10 % for validation and 10 % for testing. The last 10 % of
    the official training questions are for validation. Examples of bytes are windows that do not overlap.

    Args:
        name: python-docs, python-source, tinyshakespeare, gsm8k or hellaswag.
        seed: decides which examples are drawn.
        context: number of tokens of an example; each label is the next token.
        train_examples, validation_examples, test_examples: largest numbers of examples to draw.
        tokenizer: tokenizer of a hub model; None reads bytes. With a tokenizer, every question is one example, cut or
            padded to `context`, and only its answer is scored; questions that leave no room for one are left out.
        data_dir: folder to search after ``OPTREPRO_DATA``; None is the project's ``data/``.
        device: device of the tensors.

    Returns a data set with int64 `images` (N, context) and `labels` (N, context); `classes` is the vocabulary's size.

    Raises: ValueError for an unknown name, a number below 1, a text that is too short, or a damaged file (named in the
    message); FileNotFoundError if the files are missing.
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
            raise ValueError(f"{name}: one of its splits is too short for examples of context = {context} tokens")
        drawn = np.sort(rng.permutation(len(tokens))[:size])
        splits.append(Split(*(torch.tensor(array[drawn], device=device) for array in (tokens, labels))))
    train, validation, test = splits
    return Dataset(name, train, validation, test, (tokenizer or Bytes()).vocabulary, (context,), provenance)


def questions(name: str, count: int, data_dir: Path | None = None) -> Sequence[Question]:
    """Return the first questions of a test set. Raises: ValueError for a text with fewer questions; see `load`."""
    (_, _, test), _ = _read(name, data_dir or archives.DATA_DIR)
    if isinstance(test, bytes):
        raise ValueError(f"{name} has no questions; only gsm8k and hellaswag have")
    if not 1 <= count <= len(test):
        raise ValueError(f"count = {count} is not in [1, {len(test)}], the test questions of {name} at hand")
    return test[:count]


def _examples(text: Text, context: int, tokenizer: Tokenizer | None) -> tuple[Tokens, Tokens]:
    """Return tokens and labels, each (N, context), of all examples of a text."""
    if tokenizer is None:
        running = text if isinstance(text, bytes) else b"\0".join((q.prompt + q.answer).encode() for q in text)
        return _windows(np.frombuffer(running, np.uint8), context)
    if isinstance(text, bytes):
        return _windows(np.array(tokenizer.encode(text.decode(errors="replace"))), context)
    return _answers(text, context, tokenizer)


def _windows(running: NDArray[Any], context: int) -> tuple[Tokens, Tokens]:
    """Cut consecutive windows; the label of a window's last token is the first token of the next window."""
    count = max(0, (len(running) - 1) // context)
    tokens = running[: count * context].reshape(count, context)
    labels = running[1 : count * context + 1].reshape(count, context)
    return tokens.astype(np.int64), labels.astype(np.int64)


def _answers(asked: Sequence[Question], context: int, tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """Make one example per question; only the answer and the end token are scored."""
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
    """Return the training, validation and test part of a text, and the records of the files."""
    archive = archives.archive(name)
    if archive.modality != "text":
        raise ValueError(f"name = {name!r} is not allowed; it is a set of images, see images.load")
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
    """Cut a running text into training, validation and test part."""
    held_out = round(len(running) * HELD_OUT)
    left = len(running) - 2 * held_out
    return running[:left], running[left : left + held_out], running[left + held_out :]


def _read_embedded(archive: Archive) -> tuple[bytes, FileRecord]:
    """Read a text that comes with Python: the sources of modules, or the language reference inside one module."""
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
    """Parse questions from lines of JSON."""
    try:
        return [form(json.loads(line)) for line in data.splitlines() if line.strip()]
    except (ValueError, KeyError, IndexError) as error:
        reason = f"expected a question in each line, as JSON ({error!r})"
        raise DamagedFileError(path, reason, "delete the file and fetch or copy it again") from error


def _of_gsm8k(entry: dict[str, Any]) -> Question:
    return Question(f"Question: {entry['question']}\nAnswer:", f" {entry['answer']}")


def _of_hellaswag(entry: dict[str, Any]) -> Question:
    return Question(f"Question: {entry['ctx']}\nAnswer:", f" {entry['endings'][entry['label']]}")


_QUESTIONS: dict[str, Callable[[dict[str, Any]], Question]] = {"gsm8k": _of_gsm8k, "hellaswag": _of_hellaswag}
