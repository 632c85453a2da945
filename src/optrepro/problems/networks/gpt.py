"""Causal language models: a small GPT, pretrained models of the hub, and answers by generation."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, cast

import torch
from torch import Tensor, nn

from optrepro.problems.data.texts import Bytes, Question, Tokenizer
from optrepro.problems.networks import hub
from optrepro.problems.networks.classic import seeded


class LanguageModel(nn.Module):
    """A causal language model of `transformers` that takes tokens (B, T) and returns logits (B, T, vocabulary)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T) int64 to (B, T, vocabulary)."""
        logits: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        return logits

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int, end: int) -> list[list[int]]:
        """Continue each prompt greedily; returns the new tokens before the token `end`."""
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        padded = torch.tensor([[end] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        read = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        # Sets all generation settings, because a hub model's own settings would replace those left out.
        network: Any = self.network
        network.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=new_tokens, do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=end
        )
        device = next(self.parameters()).device
        both = network.generate(padded.to(device), attention_mask=read.to(device))
        written: list[list[int]] = both[:, width:].tolist()
        return [answer[: answer.index(end)] if end in answer else answer for answer in written]


def gpt(vocabulary: int, context: int, width: int, layers: int, heads: int, seed: int) -> nn.Module:
    """Build a GPT-2 without dropout on the CPU; its initial weights depend only on the arguments.

    Args:
        vocabulary: number of tokens.
        context: largest number of tokens that it can read.
        width: size of a token's representation, a multiple of `heads`; the blocks' perceptrons have 4 times as many.
        layers: number of blocks.
        heads: number of attention heads.
        seed: seed of the initialization; global random states are not changed.

    Raises: ValueError for a size below 1, or a width that is no multiple of heads.
    Source: Radford et al. 2019, in the form and with the initialization of `transformers`.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    hub.check_sizes(vocabulary=vocabulary, context=context, width=width, layers=layers, heads=heads)
    settings = GPT2Config(  # type: ignore[call-arg]  # every config accepts attn_implementation
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # the same as "gelu_new", but 15 % faster on a CPU
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
    """The tokenizer of a hub model."""

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


def from_hub(name: str, revision: str, timeout: float = hub.TIMEOUT) -> tuple[nn.Module, Tokenizer]:
    """Load a pretrained causal language model on the CPU, in float32, and its tokenizer.

    Args:
        name: "owner/model" on the hub, or a folder.
        revision: commit of the model.
        timeout: seconds to wait for the hub if the model is not on this machine.

    Raises: ConnectionError if the model is not on this machine and the hub cannot be reached.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = hub.load(AutoTokenizer.from_pretrained, name, revision, timeout)
    network = hub.load(AutoModelForCausalLM.from_pretrained, name, revision, timeout, dtype=torch.float32)
    return LanguageModel(network), HubTokenizer(tokenizer)


def exact_matches(
    module: LanguageModel,
    asked: Sequence[Question],
    *,
    context: int,
    tokenizer: Tokenizer | None = None,
    new_tokens: int = 256,
) -> int:
    """Count the questions whose greedily generated answer ends in the right number.

    Args:
        module: language model, which answers all questions in one batch.
        asked: questions whose answers end in "#### number", as in GSM8K.
        context: largest number of tokens that the module can read; longer questions keep their last tokens.
        tokenizer: tokenizer of the module; None reads bytes.
        new_tokens: largest number of tokens of an answer, at most half of the context.

    Raises: ValueError for a question whose reference answer has no such number.
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
    """Return the number after the first "####", without commas and currency, or None if there is none."""
    found = re.search(r"####\s*(-?)\$?(\d[\d,]*(?:\.\d+)?|\.\d+)", answer)
    return Decimal((found[1] + found[2]).replace(",", "")) if found else None
