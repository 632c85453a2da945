import torch

from optrepro.experiments.base import shared
from optrepro.studies.objectives import Panel

CALLS: list[object] = []


@shared.shareable
def made(panel: Panel, seeds: tuple[int, ...], device: torch.device | str = "cpu") -> object:
    CALLS.append((panel, seeds, device))
    return object()


def test_what_was_made_while_keeping_is_returned_to_equal_calls_and_forgotten_by_the_next_study() -> None:
    panel = Panel(dataset=("digits",), inputs=4, hidden=3, batch_size=2, steps=5)
    with shared.keeping():
        kept = made(panel, (1, 2), "cpu")
    assert made(panel.model_copy(), (1, 2), torch.device("cpu")) is kept
    assert made(panel, (1, 3), "cpu") is not kept
    assert made(panel, (1, 3), "cpu") is not made(panel, (1, 3), "cpu")  # only what prepares is kept
    with shared.keeping():
        pass
    assert made(panel, (1, 2), "cpu") is not kept
