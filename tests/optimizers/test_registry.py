"""The registry that the situations are crossed with leaves no class out."""

import torch

from optrepro import optimizers
from tests.optimizers.registry import MAKES, Make, each
from tests.optimizers.task import Task


def test_every_exported_class_is_registered() -> None:
    assert {make.kind for make in MAKES} == {getattr(optimizers, name) for name in optimizers.__all__}


def test_every_configuration_has_a_name_of_its_own() -> None:
    assert len({make.name for make in MAKES}) == len(MAKES)


@each
def test_a_registered_configuration_is_what_is_said_of_it(make: Make) -> None:
    optimizer = make(Task().params)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert make.is_continuous or type(optimizer) is make.kind
    assert getattr(optimizer, "needs", None) in ((make.probes,) if not make.needs_loss else ("loss", None))
    assert hasattr(optimizer, "selection") == make.selects
