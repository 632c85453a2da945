from collections.abc import Callable

import pytest

from optrepro import runtable
from optrepro.config import Config
from tests.studies.runs import ids, rows

Tiny = Callable[..., Config]
POLICIES = {
    "studies.meta.ppo.iterations=3": {"standard", "log"},
    "studies.meta.prior.warp=0.5": {"standard", "log"},
    "studies.meta.network.width=16": {"standard", "log"},
    "studies.meta.network.horizon=8": {"standard", "log"},
    "studies.meta.ppo.log_regret=0.3": {"standard", "log"},  # the validation score of every row weighs with it
    "studies.meta.validate_every=2": {"standard", "log"},
    "studies.meta.functions=[sphere, booth]": {"standard", "log"},
    "studies.meta.policies.log.ppo.log_regret=0.3": {"log"},
    "studies.meta.ppo.improvement=0.5": {"standard"},  # the other row has its own
    "studies.meta.policies.log.label=other": set(),
    "studies.meta.policies.log.group=other": set(),
    "studies.meta.policies.log=null": set(),
    "studies.meta.gpu=true": set(),
}


@pytest.mark.parametrize(("override", "changed"), POLICIES.items(), ids=POLICIES)
def test_a_policy_gets_new_ids_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[str], tiny_pop: Tiny
) -> None:
    before, after = tiny_pop(), tiny_pop(override)
    for batch in runtable.batches(after, "meta"):
        kept = set(ids(before, batch.name, "meta")) & {run.id for run in batch.runs}
        assert not kept if batch.name in changed else kept == {run.id for run in batch.runs}, batch.name


def test_policies_of_a_repetition_share_a_seed_and_repetitions_do_not(tiny_pop: Tiny) -> None:
    runs = rows(tiny_pop("studies.meta.repetitions=3"), study="meta")
    seeds = {(run.optimizer, run.repetition): run.seed for run in runs}
    assert len(seeds) == 2 * 3
    assert all(seeds["standard", i] == seeds["log", i] for i in range(3))
    assert len(set(seeds.values())) == 3


def test_a_policy_is_watched_on_validation_functions_and_tested_on_others(tiny_pop: Tiny) -> None:
    runs = rows(tiny_pop(), study="meta", optimizer="log")
    assert [(run.workload, run.role) for run in runs] == [
        ("prior-validation", "tune"),
        ("prior-test", "test"),
        ("vlse/sphere", "test"),
    ]


def test_only_a_row_whose_policy_is_trained_has_the_weights_of_the_batch_that_trains_it(tiny_pop: Tiny) -> None:
    settings = tiny_pop()
    given = {batch.name: batch.weights for batch in runtable.batches(settings, "transfer")}
    assert given == {"adam": None, "lbfgs": None, "trained": ("meta", "standard"), "random": None, "cma-es": None}
    assert "standard" in {batch.name for batch in runtable.batches(settings, "meta")}
