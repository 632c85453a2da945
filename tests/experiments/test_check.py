from collections.abc import Callable
from pathlib import Path

import pytest

from optrepro import config
from optrepro.config import Config, ConfigError
from optrepro.experiments import check
from optrepro.experiments.meta import train_pop
from optrepro.optimizers import _pop_policy as policy

Tiny = Callable[..., Config]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, in which no data set is at hand."""
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "overnight", "gpu", "paper"])
def test_every_scale_passes_the_check_and_no_package_prints_greetings(
    scale: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check.check(config.load(ROOT / "config" / f"{scale}.yaml"))
    assert capsys.readouterr().out == ""


PROBLEMS = {
    "studies.images.dataset=[mnist]": "studies.images.dataset: none of the data sets mnist is available",
    "studies.images.network=perceptrom": "studies.images.network: unknown network 'perceptrom'",
    "studies.images.network_settings={hidden: 3}": "studies.images.network: unknown setting hidden = 3 of softmax",
    "studies.boxes.functions=[sphere, shpere]": "studies.boxes.functions: name = 'shpere' is not a function",
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
        "studies.images.optimizers.random: shares_of = 'sgd' is not allowed: the row must choose among candidates"
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
    check.check(tiny())
    with pytest.raises(ConfigError) as caught:
        check.check(tiny(override))
    assert any(line.startswith(message) for line in str(caught.value).splitlines()), str(caught.value)


def test_the_check_reports_all_problems_at_once(tiny: Tiny) -> None:
    overrides = [key for key in PROBLEMS if key.split("=")[0].endswith(("dataset", "network", "functions", "class"))]
    with pytest.raises(ConfigError) as caught:
        check.check(tiny(*overrides))
    keys = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert keys == [
        "studies.images.dataset",
        "studies.images.network",
        "studies.images.optimizers.sgd",
        "studies.boxes.functions",
    ]


def test_what_cannot_be_used_in_fine_tuning_is_named_too(tiny_gap: Tiny) -> None:
    check.check(tiny_gap())
    with pytest.raises(ConfigError) as caught:
        check.check(
            tiny_gap(
                "studies.language.task.corpus=[digits]",
                "studies.pretraining.backbones.vit.task.dataset=[python-docs]",
                "studies.vision.optimizers.gap.settings.score=best",
            )
        )
    backbone, task, optimizer = str(caught.value).splitlines()
    assert backbone.startswith(
        "studies.pretraining.backbones.vit.task: 'python-docs' does not fit the modality vision;"
    )
    assert task.startswith("studies.language.task: 'digits' does not fit the modality language; allowed are ['python-")
    assert optimizer.startswith("studies.vision.optimizers.gap: settings = {'score': 'best'} are not allowed for")


POP = "class: optrepro.optimizers.POP, label: x, group: policy"
POP_PROBLEMS = {
    "studies.meta.functions=[sphere, shpere]": "studies.meta.functions: name = 'shpere' is not a function",
    "studies.transfer.functions=[shpere]": "studies.transfer.functions: name = 'shpere' is not a function",
    "studies.transfer.references.random.method=randm": (
        "studies.transfer.references.random: method = 'randm' is unknown; allowed are ['cma-es', 'diff"
    ),
    "studies.transfer.collections.shift-noise.dim=1": (
        "studies.transfer.collections.shift-noise: n = 1 and dim = 1 are not allowed; n must be at least 1, "
        "and dim at least 2"
    ),
    "studies.transfer.optimizers.adam.settings.alpha=1": (
        "studies.transfer.optimizers.adam: settings = {'alpha': 1} are not allowed for torch.optim.Adam"
    ),
    "studies.transfer.optimizers.trained.class=torch.optim.Adam": (
        "studies.transfer.optimizers.trained: class = 'torch.optim.Adam' is not allowed: a row of group policy must be"
    ),
    f"studies.transfer.optimizers.other={{{POP}, settings: {{policy: other}}}}": (
        "studies.transfer.optimizers.other: policy = 'other' is no file, and no shipped policy"
    ),
}


@pytest.mark.parametrize(("override", "message"), POP_PROBLEMS.items(), ids=POP_PROBLEMS)
def test_what_cannot_be_used_in_meta_training_or_transfer_is_named_too(
    override: str, message: str, tiny_pop: Tiny
) -> None:
    check.check(tiny_pop())
    with pytest.raises(ConfigError) as caught:
        check.check(tiny_pop(override))
    assert [line for line in str(caught.value).splitlines() if line.startswith(message)], str(caught.value)


def test_a_network_that_cannot_be_built_is_named(tiny_pop: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(settings: policy.PolicySettings) -> None:
        raise ValueError(f"backbone = {settings.backbone!r} is not there")

    monkeypatch.setattr(train_pop, "Policy", refuse)
    with pytest.raises(ConfigError) as caught:
        check.check(tiny_pop("studies.meta.policies.log.network={backbone: gru}"))
    assert str(caught.value).splitlines() == [
        "studies.meta.policies.standard: backbone = 'transformer' is not there",
        "studies.meta.policies.log: backbone = 'gru' is not there",
    ]


def test_a_policy_that_is_still_to_be_trained_needs_no_weights_and_one_in_a_file_is_loaded(tiny_pop: Tiny) -> None:
    policy.save(policy.Policy(policy.PolicySettings(width=8)), "mine.safetensors")
    check.check(tiny_pop(f"studies.transfer.optimizers.mine={{{POP}, settings: {{policy: mine.safetensors}}}}"))
    Path("mine.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"mine: mine\.safetensors cannot be used: it holds no"):
        check.check(tiny_pop(f"studies.transfer.optimizers.mine={{{POP}, settings: {{policy: mine.safetensors}}}}"))


L2L = "class: optrepro.optimizers.l2l.L2L, label: x, group: policy"
LTO_PROBLEMS = {
    "studies.learn.dataset=[mnist]": "studies.learn.dataset: none of the data sets mnist is available",
    "studies.compare.tuning.dataset=[mnist]": (
        "studies.compare.tuning.dataset: none of the data sets mnist is available"
    ),
    "studies.compare.panels.wide.dataset=[cifar10, mnist]": (
        "studies.compare.panels.wide.dataset: none of the data sets cifar10, mnist is available"
    ),
    "studies.compare.optimizers.adam.settings.alpha=1": (
        "studies.compare.optimizers.adam: settings = {'alpha': 1} are not allowed for torch.optim.Adam"
    ),
    "studies.compare.optimizers.learned.class=torch.optim.Adam": (
        "studies.compare.optimizers.learned: class = 'torch.optim.Adam' is not allowed: a row of group policy must be"
    ),
    f"studies.compare.optimizers.other={{{L2L}, settings: {{policy: other}}}}": (
        "studies.compare.optimizers.other: policy = 'other' is no file, and no shipped policy"
    ),
}


@pytest.mark.parametrize(("override", "message"), LTO_PROBLEMS.items(), ids=LTO_PROBLEMS)
def test_what_cannot_be_used_by_step_rules_is_named_too(override: str, message: str, tiny_lto: Tiny) -> None:
    check.check(tiny_lto())
    with pytest.raises(ConfigError) as caught:
        check.check(tiny_lto(override))
    assert [line for line in str(caught.value).splitlines() if line.startswith(message)], str(caught.value)
