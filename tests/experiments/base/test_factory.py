from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optrepro.config import ConfigError
from optrepro.experiments.base import factory
from optrepro.studies.comparison import OptimizerConfig


class Recorder(torch.optim.Optimizer):
    """Keeps what it was made with."""

    def __init__(self, params: Any, lr: float, seed: int, betas: Any = (), shares: Any = None, table: Any = None):
        super().__init__(params, {"lr": lr})
        self.given = {"lr": lr, "seed": seed, "betas": betas, "shares": shares, "table": table}


class WithoutRate(torch.optim.Optimizer):
    """Takes neither rate nor seed."""

    def __init__(self, params: Any):
        super().__init__(params, {})


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "Recorder", Recorder, raising=False)
    monkeypatch.setattr(torch.optim, "WithoutRate", WithoutRate, raising=False)


def entry(path: str, **settings: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"label": "x", "class": path, "settings": settings})


def parameters() -> list[Tensor]:
    return [nn.Parameter(torch.zeros(2))]


def given(**arguments: Any) -> dict[str, Any]:
    settings = arguments.pop("settings", {})
    made = factory.make(entry("torch.optim.Recorder", **settings), parameters(), 0.5, **arguments)
    assert isinstance(made, Recorder)
    return made.given


def test_any_importable_optimizer_can_be_made_with_its_settings() -> None:
    made = factory.make(entry("torch.optim.SGD", momentum=0.9), parameters(), 0.5)
    assert type(made) is torch.optim.SGD
    assert made.param_groups[0]["lr"] == 0.5
    assert made.param_groups[0]["momentum"] == 0.9


def test_a_class_that_takes_a_seed_gets_the_runs() -> None:
    assert given(seed=3)["seed"] == 3


def test_a_seed_among_the_settings_wins() -> None:
    assert given(seed=3, settings={"seed": 4})["seed"] == 4


def test_shares_reach_the_optimizer() -> None:
    assert given(shares=[0.2, 0.8])["shares"] == (0.2, 0.8)


def test_a_class_without_rate_and_seed_gets_neither() -> None:
    made = factory.make(entry("torch.optim.WithoutRate"), parameters(), 0.5, seed=3)
    assert "lr" not in made.param_groups[0]


def test_lists_of_the_config_become_tuples_at_every_depth() -> None:
    settings = {"betas": [[0.5, 0.999], [0.9, 0.999]], "table": {"inner": [1, [2]]}}
    made = given(settings=settings)
    assert made["betas"] == ((0.5, 0.999), (0.9, 0.999))
    assert made["table"] == {"inner": (1, (2,))}


def test_making_an_optimizer_leaves_its_entry_as_it_is() -> None:
    config = entry("torch.optim.Recorder", betas=[1, 2])
    factory.make(config, parameters(), 0.5, shares=[1.0])
    assert config.settings == {"betas": [1, 2]}


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("nowhere.SGD", "cannot be imported: No module named 'nowhere'"),
        ("torch.optim.SDG", "cannot be imported: module 'torch.optim' has no attribute 'SDG'"),
        ("torch.optim.lr_scheduler", "is not a torch.optim.Optimizer"),
        ("torch.nn.Linear", "is not a torch.optim.Optimizer"),
    ],
)
def test_a_path_to_no_optimizer_is_an_error_that_names_it(path: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        factory.optimizer_class(path)
    assert str(caught.value).startswith(f"class = {path!r} {fault}")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [({"momentun": 0.9}, "unexpected keyword argument 'momentun'"), ({"momentum": -1}, "Invalid momentum value: -1")],
)
def test_settings_that_the_class_refuses_are_an_error_with_its_own_words(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        factory.make(entry("torch.optim.SGD", **settings), parameters(), 0.5)
    assert str(caught.value).startswith(f"settings = {settings} are not allowed for torch.optim.SGD: ")
    assert fault in str(caught.value)
