from collections.abc import Callable

import pytest

from optrepro import runtable
from optrepro.config import Config
from tests.studies.runs import ids, rows

Tiny = Callable[..., Config]


ALL = {"adam", "lbfgs", "trained", "random", "cma-es"}
TRANSFER = {
    "studies.meta.ppo.iterations=3": {"trained"},
    "studies.meta.policies.standard.network={backbone: gru}": {"trained"},
    "studies.meta.policies.log.ppo.floor=0.1": set(),
    "studies.meta.policies.standard.label=other": set(),
    "studies.transfer.optimizers.trained.label=other": set(),
    "studies.transfer.references.random.label=other": set(),
    "studies.transfer.references.random=null": set(),
    "studies.transfer.optimizers.adam.settings.eps=0.1": {"adam"},
    "studies.transfer.optimizers.adam.learning_rates=[0.02, 0.1, 0.4]": {"adam"},
    "studies.transfer.references.random.method=tpe": {"random"},
    "studies.transfer.reference_count=1": {"random", "cma-es"},
    "studies.transfer.reference_starts=1": {"random", "cma-es"},
    "studies.transfer.collections.vlse.count=5": ALL,
    "studies.transfer.budget=7": ALL,
}


@pytest.mark.parametrize(("override", "changed"), TRANSFER.items(), ids=TRANSFER)
def test_a_contender_gets_new_ids_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[str], tiny_pop: Tiny
) -> None:
    before, after = tiny_pop(), tiny_pop(override)
    for batch in runtable.batches(after, "transfer"):
        kept = set(ids(before, batch.name, "transfer")) & {run.id for run in batch.runs}
        assert not kept if batch.name in changed else kept == {run.id for run in batch.runs}, batch.name


def test_tuned_rows_are_tuned_on_the_prior_and_for_each_function_and_others_are_not(tiny_pop: Tiny) -> None:
    def tuning(name: str) -> list[tuple[str, float | None]]:
        runs = rows(tiny_pop(), study="transfer", optimizer=name, role="tune")
        return [(run.workload, run.learning_rate) for run in runs]

    workloads = ["prior-validation", *(f"vlse-each/{name}" for name in ("sphere", "booth", "forrester"))]
    assert tuning("adam") == [(workload, rate) for workload in workloads for rate in (0.01, 0.1, 0.4)]
    assert tuning("trained") == [("prior-validation", None)]
    assert tuning("random") == []


def test_contenders_share_the_seeds_of_a_workload_however_they_are_tuned(tiny_pop: Tiny) -> None:
    tests = rows(tiny_pop(), study="transfer", role="test")
    seeds = {(run.workload.replace("-each/", "/"), run.seed) for run in tests}
    assert len(seeds) == len({workload for workload, _ in seeds}) == 3 + 3
    tuning = {run.seed for run in rows(tiny_pop(), study="transfer", role="tune")}
    assert tuning.isdisjoint({seed for _, seed in seeds})


def test_without_an_extra_tuning_no_workload_is_tuned_for_each_function(tiny_pop: Tiny) -> None:
    runs = rows(tiny_pop("studies.transfer.collections.vlse.each=null"), study="transfer")
    assert not any("-each/" in run.workload for run in runs)


@pytest.mark.parametrize("study", ["meta", "transfer"])
def test_batches_of_policies_and_contenders_carry_out_every_run_once(study: str, tiny_pop: Tiny) -> None:
    settings = tiny_pop("studies.meta.repetitions=2")
    batched = [run.id for batch in runtable.batches(settings, study) for run in batch.runs]
    assert sorted(batched) == sorted(run.id for run in rows(settings, study=study))
    assert len(set(batched)) == len(batched)
