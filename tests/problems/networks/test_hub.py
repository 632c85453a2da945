import json
import socket
import time
from pathlib import Path

import pytest
import torch

from optrepro.problems.networks import gpt, hub, vit

COMMIT = "0a" * 20


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """Sets the address of the hub, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return lambda url: monkeypatch.setattr(constants, "ENDPOINT", url)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "load", [gpt.from_hub, lambda name, revision, timeout: vit.from_hub(name, revision, 3, timeout)]
)
def test_one_error_names_the_model_and_the_hub_that_cannot_be_reached(endpoint, load):
    url = f"http://127.0.0.1:{free_port()}"
    endpoint(url)
    with pytest.raises(
        ConnectionError,
        match=rf"nobody/nothing at revision {COMMIT} is not on this machine and the hub {url} does not answer",
    ):
        load("nobody/nothing", COMMIT, timeout=5)


def test_a_hub_that_never_answers_is_given_up_after_the_timeout(endpoint):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")
        gpt.gpt(2, 2, 2, 1, 1, 0)  # so that importing transformers is not counted
        start = time.monotonic()
        with pytest.raises(ConnectionError, match="download the model on a machine with network"):
            gpt.from_hub("nobody/nothing", COMMIT, timeout=0.2)
        assert time.monotonic() - start < 3


def test_a_hub_that_is_switched_off_is_not_asked(endpoint, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        gpt.from_hub("nobody/nothing", COMMIT)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: the folder holds no complete model"):
        gpt.from_hub(str(tmp_path), COMMIT)


def cached(folder, model, commits):
    """A cache of the hub with a model in some revisions, of which the last is the newest."""
    for commit in commits:
        snapshot = folder / f"models--{model.replace('/', '--')}" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps({"commit": commit}))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commits[-1])


def test_the_revision_that_is_asked_for_is_loaded_and_not_the_newest(endpoint, tmp_path):
    old, new = "a" * 40, "b" * 40
    cached(tmp_path / "cache", "owner/model", [old, new])

    def loader(folder):
        return json.loads((Path(folder) / "config.json").read_text())["commit"]

    assert [hub.load(loader, "owner/model", commit) for commit in (old, new)] == [old, new]


def test_a_revision_that_is_not_on_this_machine_is_not_replaced_by_another(endpoint, tmp_path, monkeypatch):
    from huggingface_hub import constants

    cached(tmp_path / "cache", "owner/model", ["a" * 40])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=f"owner/model at revision {COMMIT} is not on this machine"):
        hub.load(lambda folder: folder, "owner/model", COMMIT)


def test_the_hub_is_asked_for_the_revision(endpoint, monkeypatch):
    import huggingface_hub
    import requests

    asked, fetched = [], []

    def download(name, revision, local_files_only=False, **_):
        if local_files_only:
            raise OSError("not here")
        fetched.append((name, revision))
        return "folder"

    endpoint("http://hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(requests, "head", lambda url, timeout: asked.append(url))
    assert hub.load(lambda folder: folder, "owner/model", COMMIT) == "folder"
    assert asked == [f"http://hub/owner/model/resolve/{COMMIT}/config.json"]
    assert fetched == [("owner/model", COMMIT)]


@pytest.fixture
def gpt_folder(tmp_path):
    """A folder as the hub has it: a small GPT-2 with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "the", "cat", "sat"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "gpt")
    gpt.gpt(len(words), 8, 16, 1, 2, seed=0).network.save_pretrained(tmp_path / "gpt")
    return str(tmp_path / "gpt")


def test_a_language_model_of_a_folder_comes_with_its_tokenizer(gpt_folder):
    module, tokenizer = gpt.from_hub(gpt_folder, COMMIT)
    assert (tokenizer.vocabulary, tokenizer.start, tokenizer.end) == (6, (1,), 2)
    assert tokenizer.encode("the cat sat") == [3, 4, 5]
    assert tokenizer.decode([3, 4, 5]) == "the cat sat"
    tokens = torch.tensor([[1, 3, 4, 5]])
    torch.testing.assert_close(module(tokens), gpt.gpt(6, 8, 16, 1, 2, seed=0)(tokens))


def test_an_image_classifier_of_a_folder_gets_a_new_head_and_images_of_its_size(tmp_path):
    vit.vit((3, 16, 16), 5, 8, 16, 1, 2, seed=0).network.save_pretrained(tmp_path / "vit")
    state = torch.random.get_rng_state()
    module = vit.from_hub(str(tmp_path / "vit"), COMMIT, classes=3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert module(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    grey = torch.randn(2, 1, 28, 28)  # scaled to 16, and its channel repeated
    assert torch.equal(module(grey), module(grey.repeat(1, 3, 1, 1)))
    assert module.get_submodule(vit.HEAD).out_features == 3


def test_sizes_are_checked_by_name():
    hub.check_sizes(width=4, heads=2, layers=1)
    with pytest.raises(ValueError, match="layers = 0 is not at least 1"):
        hub.check_sizes(width=4, heads=2, layers=0)
