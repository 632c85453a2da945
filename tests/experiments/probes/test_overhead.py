"""Step times and memory of optimizers beside torch's."""

import pandas as pd
import pytest
import torch

from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import COLUMNS
from optrepro.experiments.probes import overhead
from optrepro.optimizers.gap import GapSGD
from optrepro.studies.base import Batch
from optrepro.studies.overhead import OverheadStudy

GAP = "optrepro.optimizers.gap.GapAdamW"


def row(path: str, group: str = "dynamic", **settings: object) -> dict[str, object]:
    return {"label": path, "group": group, "class": path, "settings": settings}


STUDY = OverheadStudy.model_validate(
    {
        "families": {
            "adamw": {
                "reference": "torch.optim.AdamW",
                "optimizers": {
                    "beta-90": row("torch.optim.AdamW", "fixed"),
                    "paper": row(GAP),
                    "debiased": row(GAP, score="debiased", self_term="halves"),
                    "validation": row(GAP, score="validation"),
                    "continuous": row(GAP, candidates="continuous"),
                    "random": row("optrepro.optimizers.controls.RandomAdamW", "control"),
                    "random-raw": {**row("optrepro.optimizers.controls.RandomAdamW"), "shares_of": "paper"},
                    "schedule-free": row("schedulefree.AdamWScheduleFree", "peer"),
                },
            }
        },
        "networks": {
            "perceptron": {"label": "perceptron", "network": "perceptron", "settings": {"hidden": 4}},
            "cnn": {"label": "CNN", "network": "cnn", "settings": {"width": 2}},
        },
        "seconds": 0.001,
        "turns": 2,
    }
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    checkpoint = Checkpoint(tmp_path_factory.mktemp("state") / "state.pt")
    context = Context(seed=1, device=torch.device("cpu"), checkpoint=checkpoint)
    return overhead.run(STUDY, Batch("gap-overhead", "all", None, (), (), ""), context)


def test_every_row_but_fixed_ones_and_repeated_shares_is_timed_on_every_network(results: pd.DataFrame) -> None:
    assert list(results.columns) == list(COLUMNS)
    timed = {"foreach", "fused", "paper", "debiased", "validation", "continuous", "random", "schedule-free"}
    for network in STUDY.networks:
        ratios = results[(results.workload == f"{network}/adamw") & (results.metric == "step_ratio")]
        assert set(ratios.optimizer) == timed
        assert (ratios.groupby("optimizer").seed.nunique() >= STUDY.turns).all()
        assert (ratios.value > 0).all()


def test_the_foreach_version_is_the_unit(results: pd.DataFrame) -> None:
    own = results[(results.optimizer == "foreach") & results.metric.isin(["step_ratio", "state_ratio"])]
    assert (own.value == 1).all()


def test_memory_is_that_of_the_buffers(results: pd.DataFrame) -> None:
    ratios = results[(results.metric == "state_ratio") & (results.workload == "perceptron/adamw")]
    ratio = ratios.set_index("optimizer").value
    assert ratio["paper"] == pytest.approx(2, abs=0.01)  # three first moments and a second, to one of each
    assert 1 < ratio["continuous"] < 1.05


def test_bytes_are_counted_once_and_with_the_sketch() -> None:
    params = [torch.zeros(5000, requires_grad=True)]
    params[0].grad = torch.ones(5000)
    optimizer = GapSGD(params, 0.1, candidates="continuous")
    optimizer.step()
    state = optimizer.state[params[0]]
    assert state["momentum_buffer"].nbytes == 4 * 5000
    own = sum(value.nbytes for value in state.values())
    assert overhead.state_bytes(optimizer) == own + optimizer.sketch.signs.nbytes


def test_adapters_are_all_that_is_timed_where_they_are_asked_for() -> None:
    sizes = {"vocabulary": 11, "context": 4, "width": 8, "layers": 1, "heads": 2}
    network = {"label": "GPT", "network": "gpt", "settings": sizes}
    study = STUDY.model_dump(by_alias=True) | {"networks": {"all": network, "lora": {**network, "lora_rank": 2}}}
    trained = {}
    for name, timed in OverheadStudy.model_validate(study).networks.items():
        trained[name] = [key for key, p in overhead.build(timed).named_parameters() if p.requires_grad]
    assert all("lora_" in key for key in trained["lora"])
    assert len(trained["all"]) > 0 < len(trained["lora"])
    assert not any("lora_" in key for key in trained["all"])
