"""Parts that language and vision models share: checks of sizes, and loading from the Hugging Face hub."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")

TIMEOUT = 10.0  # seconds to wait for the hub
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # config, weights, vocabulary; no pickles


def check_sizes(width: int, heads: int, **sizes: int) -> None:
    """Check sizes. Raises: ValueError for a size below 1, or a width that is no multiple of heads."""
    for argument, size in {"width": width, "heads": heads, **sizes}.items():
        if size < 1:
            raise ValueError(f"{argument} = {size} is not at least 1")
    if width % heads:
        raise ValueError(f"width = {width} is not a multiple of heads = {heads}")


def load(loader: Callable[..., Loaded], name: str, revision: str, timeout: float = TIMEOUT, **settings: Any) -> Loaded:
    """Load a model or tokenizer of `transformers` from this machine, or from the hub if it is not there.

    Args:
        loader: a `from_pretrained` of `transformers`.
        name: "owner/model" on the hub, or a folder.
        revision: commit of the model; ignored for a folder.
        timeout: seconds to wait for the hub's first answer.
        settings: further arguments of the loader.

    Raises: ConnectionError if the model is not on this machine and the hub is disabled or does not answer;
    FileNotFoundError for a folder without a complete model; OSError for a name or revision that the hub does not know.
    """
    from huggingface_hub import snapshot_download

    if Path(name).is_dir():
        try:
            return loader(name, **settings)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"{name}: the folder holds no complete model ({error})") from error
    # The loaders get folders, because with names they contact the hub even if they may not.
    with suppress(OSError, ValueError):  # raised if the model is not on this machine, or not completely
        return loader(snapshot_download(name, revision=revision, local_files_only=True), **settings)
    _refuse_silence(name, revision, timeout)
    return loader(snapshot_download(name, revision=revision, allow_patterns=_FILES), **settings)


def _refuse_silence(name: str, revision: str, timeout: float) -> None:
    """Contact the hub once, because its own client retries many times. Raises: ConnectionError without an answer."""
    import requests
    from huggingface_hub import constants

    model = f"{name} at revision {revision}"
    advice = "download the model on a machine with network, and give its folder as the name"
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(f"{model} is not on this machine and HF_HUB_OFFLINE is set; unset it, or {advice}")
    try:
        requests.head(f"{constants.ENDPOINT}/{name}/resolve/{revision}/config.json", timeout=timeout)
    except requests.RequestException as error:
        raise ConnectionError(
            f"{model} is not on this machine and the hub {constants.ENDPOINT} does not answer "
            f"({type(error).__name__}); {advice}"
        ) from error
