from collections.abc import Callable
from pathlib import Path

import pytest

from optrepro import config
from optrepro.config import Config, ConfigError
from optrepro.experiments import checks

Tiny = Callable[..., Config]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, in which no data set is at hand."""
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu", "paper"])
def test_every_scale_passes_the_check(scale: str) -> None:
    checks.check(config.load(ROOT / "config" / f"{scale}.yaml"))


PROBLEMS = {
    "studies.images.dataset=[mnist]": "studies.images.dataset: none of the data sets mnist is at hand",
    "studies.images.dataset=[minst]": "studies.images.dataset: unknown data set 'minst'",
    "studies.images.network=perceptrom": "studies.images.network: unknown network 'perceptrom'",
    "studies.images.network_settings={hidden: 3}": "studies.images.network: unknown setting hidden = 3 of softmax",
    "studies.boxes.functions=[sphere, shpere]": "studies.boxes.functions: name = 'shpere' is no function",
    "studies.images.optimizers.sgd.class=torch.optim.SDG": (
        "studies.images.optimizers.sgd: class = 'torch.optim.SDG' cannot be imported"
    ),
    "studies.images.optimizers.sgd.settings.momentum=-1": (
        "studies.images.optimizers.sgd: settings = {'momentum': -1} are not allowed for torch.optim.SGD: "
        "Invalid momentum value: -1"
    ),
    "studies.images.settings.alpha=1": "studies.images.optimizers.sgd: settings = {'alpha': 1, 'momentum': 0.9} are",
    "studies.boxes.optimizers.sgd.settings.alpha=1": "studies.boxes.optimizers.sgd: settings = {'alpha': 1} are not",
    "studies.images.optimizers.random.shares_of=sgd": (
        "studies.images.optimizers.random: shares_of = 'sgd' is not allowed: that row chooses among no candidates"
    ),
    "studies.images.optimizers.sgd.shares_of=gap": (
        "studies.images.optimizers.sgd: settings = {'momentum': 0.9} are not allowed for torch.optim.SGD: "
    ),
    "studies.images.optimizers.gap.settings.momentum=[0.5, 0.9]": (
        "studies.images.optimizers.random: settings = {} are not allowed for "
        "optrepro.optimizers.controls.RandomSGD: shares = (1.0, 1.0) is not allowed"
    ),
}


@pytest.mark.parametrize(("override", "message"), PROBLEMS.items(), ids=PROBLEMS)
def test_what_cannot_be_used_is_named_with_its_key_before_anything_runs(
    override: str, message: str, tiny: Tiny
) -> None:
    checks.check(tiny())
    with pytest.raises(ConfigError) as caught:
        checks.check(tiny(override))
    assert any(line.startswith(message) for line in str(caught.value).splitlines()), str(caught.value)


def test_the_check_reports_all_problems_at_once(tiny: Tiny) -> None:
    overrides = [key for key in PROBLEMS if key.split("=")[0].endswith(("dataset", "network", "functions", "class"))]
    with pytest.raises(ConfigError) as caught:
        checks.check(tiny(*overrides[1:]))
    keys = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert keys == [
        "studies.images.dataset",
        "studies.images.network",
        "studies.images.optimizers.sgd",
        "studies.boxes.functions",
    ]
