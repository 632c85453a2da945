from copy import deepcopy

import pytest
import torch

from optrepro.experiments.base.muon import MuonAdamW, orthogonalized


def way(make, parameters, steps=5):
    """Where some steps with random gradients lead."""
    optimizer = make(parameters)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return parameters


def starts(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_a_matrix_steps_as_torchs_muon_does_up_to_its_half_precision(shape):
    settings = {"lr": 0.1, "weight_decay": 0.1}
    ours = way(lambda p: MuonAdamW(p, **settings), starts(shape))
    torchs = way(lambda p: torch.optim.Muon(p, adjust_lr_fn="match_rms_adamw", **settings), starts(shape))
    torch.testing.assert_close(ours, torchs, rtol=0.0, atol=0.02)  # torch iterates in bfloat16
    assert not torch.allclose(ours[0], starts(shape)[0], atol=0.1)


def test_vectors_step_bit_for_bit_as_adamw_does():
    ours = way(lambda p: MuonAdamW(p, lr=0.1), starts((3, 2), (4,)))
    adamw = way(lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.95), weight_decay=0.1), starts((3, 2), (4,)))
    assert torch.equal(ours[1], adamw[1])


def test_a_kernel_is_a_matrix_with_one_row_for_each_output():
    (kernel,) = way(lambda p: MuonAdamW(p, lr=0.1), starts((4, 2, 3)))
    generator = torch.Generator().manual_seed(0)
    flat = [torch.randn(4, 2, 3, generator=generator).flatten(1).requires_grad_()]
    torch.testing.assert_close(kernel.flatten(1), way(lambda p: MuonAdamW(p, lr=0.1), flat)[0])


def test_what_is_orthogonalized_has_singular_values_near_one():
    matrix = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(1e6 * matrix))
    assert 0.5 < values.min() < values.max() < 1.5


def test_a_step_evaluates_its_closure_once_and_leaves_the_gradients():
    (matrix,) = starts((2, 2))
    calls = []

    def closure():
        calls.append(1)
        matrix.grad = torch.ones(2, 2)
        return torch.tensor(3.0)

    assert MuonAdamW([matrix]).step(closure) == 3
    assert (calls, matrix.grad.tolist()) == ([1], [[1, 1], [1, 1]])


def test_a_resumed_run_goes_on_bit_for_bit():
    parameters, others = starts((3, 2), (4,)), starts((3, 2), (4,))
    first, second = MuonAdamW(parameters, lr=0.1), MuonAdamW(others, lr=0.1)
    for step in range(6):
        if step == 3:
            second.load_state_dict(deepcopy(first.state_dict()))
            for one, other in zip(parameters, others, strict=True):
                other.data = one.detach().clone()
        for one, other in zip(parameters, others, strict=True):
            one.grad = torch.full_like(one, 1.0 + step) * one.detach()
            other.grad = one.grad.clone()
        first.step()
        if step >= 3:
            second.step()
    assert all(torch.equal(one, other) for one, other in zip(parameters, others, strict=True))
