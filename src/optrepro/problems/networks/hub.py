"""What the pretrained language and vision models have in common: sizes, and how they come from the hub."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")

TIMEOUT = 10.0  # seconds
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # config, weights, vocabulary; no pickles


def check_sizes(width: int, heads: int, **sizes: int) -> None:
    """Raise ValueError for a size below 1, or a width that the heads do not divide."""
    for argument, size in {"width": width, "heads": heads, **sizes}.items():
        if size < 1:
            raise ValueError(f"{argument} = {size} is not at least 1")
    if width % heads:
        raise ValueError(f"width = {width} is not a multiple of heads = {heads}")


def load(loader: Callable[..., Loaded], name: str, revision: str, timeout: float = TIMEOUT, **settings: Any) -> Loaded:
    """What a `from_pretrained` of `transformers` loads: from this machine if it is there, else from the hub.

    Args:
        loader: the `from_pretrained`.
        name: "owner/model" on the hub, or a folder.
        revision: the commit of that model, which is the one that is loaded; a folder is taken as it is.
        timeout: seconds to wait for the hub's first answer.
        settings: further arguments of the loader.

    Raises ConnectionError if the model is not on this machine and the hub is switched off or gives no answer;
    FileNotFoundError for a folder that holds no model; OSError for a name or a revision that the hub does not
    know.
    """
    from huggingface_hub import snapshot_download

    if Path(name).is_dir():
        try:
            return loader(name, **settings)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"{name}: the folder holds no whole model ({error})") from error
    # The loaders are given folders, because they ask the hub for names even where they may not.
    with suppress(OSError, ValueError):  # not on this machine, or not all of it
        return loader(snapshot_download(name, revision=revision, local_files_only=True), **settings)
    _refuse_silence(name, revision, timeout)
    return loader(snapshot_download(name, revision=revision, allow_patterns=_FILES), **settings)


def _refuse_silence(name: str, revision: str, timeout: float) -> None:
    """Ask the hub once, because its own client asks many times before it gives up."""
    import requests
    from huggingface_hub import constants

    model = f"{name} at revision {revision}"
    advice = "download the model on a machine with network, and give its folder as the name"
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(f"{model} is not on this machine and HF_HUB_OFFLINE is set: unset it, or {advice}")
    try:
        requests.head(f"{constants.ENDPOINT}/{name}/resolve/{revision}/config.json", timeout=timeout)
    except requests.RequestException as error:
        raise ConnectionError(
            f"{model} is not on this machine and the hub {constants.ENDPOINT} gives no answer "
            f"({type(error).__name__}): {advice}"
        ) from error
