import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from optrepro.optimizers.cautious import PIECE, CautiousAdamW

SHAPES = [(4, 3), (5,), ()]


def gradients(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def transcription(
    param: Tensor, grads: list[Tensor], lr: float, betas: tuple[float, float], eps: float, decay: float
) -> Tensor:
    """Algorithm 1 of the paper on one parameter, line by line, with the authors' floor of the mask's mean."""
    m = v = torch.zeros_like(param)
    for t, grad in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * grad
        v = betas[1] * v + (1 - betas[1]) * grad**2
        update = (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
        mask = torch.where(update * grad > 0, 1.0, 0.0)
        param = param - lr * decay * param
        param = param - lr * update * mask / max(mask.mean().item(), 1e-3)
    return param


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_is_the_transcription_of_the_paper(decay: float, maximize: bool, foreach: bool) -> None:
    starts = gradients(100)
    params = [start.clone().requires_grad_() for start in starts]
    optimizer = CautiousAdamW(params, 0.05, (0.8, 0.95), weight_decay=decay, maximize=maximize, foreach=foreach)
    for seed in range(30):
        for param, grad in zip(params, gradients(seed), strict=True):
            param.grad = grad
        optimizer.step()
    for i, start in enumerate(starts):
        grads = [(-1 if maximize else 1) * gradients(seed)[i] for seed in range(30)]
        torch.testing.assert_close(params[i].detach(), transcription(start, grads, 0.05, (0.8, 0.95), 1e-8, decay))


def test_is_adamw_while_every_component_agrees() -> None:
    ours, theirs = torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    cautious, plain = CautiousAdamW([ours], 0.1), torch.optim.AdamW([theirs], 0.1)
    for n in range(20):
        ours.grad = theirs.grad = torch.arange(1.0, 6.0) * (1 + n)
        cautious.step()
        plain.step()
    torch.testing.assert_close(ours, theirs)


def test_stays_where_no_component_agrees() -> None:
    param = torch.zeros(5, requires_grad=True)
    optimizer = CautiousAdamW([param], 0.1, weight_decay=0)
    param.grad = torch.ones(5)
    optimizer.step()
    reached = param.detach().clone()
    param.grad = -0.1 * torch.ones(5)
    optimizer.step()
    assert torch.equal(param, reached)


def test_components_that_agree_take_over_the_share_of_those_that_do_not() -> None:
    param = torch.zeros(4, requires_grad=True)
    optimizer = CautiousAdamW([param], 0.1, (0.9, 0.0), eps=0, weight_decay=0)
    param.grad = torch.ones(4)
    optimizer.step()
    before = param.detach().clone()
    param.grad = torch.tensor([1.0, -0.5, -0.5, -0.5])  # the first moment changes its sign in none of them
    optimizer.step()
    torch.testing.assert_close((param - before)[0], torch.tensor(-0.4))
    assert torch.equal((param - before)[1:], torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_element_moves_as_in_the_step_without_a_fused_kernel(dtype: torch.dtype) -> None:
    for size in [*range(1, 71), 3 * PIECE + 5]:
        params = [torch.zeros(size, dtype=dtype, requires_grad=True) for _ in range(2)]
        optimizers = [CautiousAdamW([p], 0.01, eps=1e-3, foreach=f) for p, f in zip(params, (None, True), strict=True)]
        for seed in range(3):
            gradient = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
            for param, optimizer in zip(params, optimizers, strict=True):
                param.grad = gradient.clone()
                optimizer.step()
        assert (params[0] != 0).double().mean() > 0.99
        torch.testing.assert_close(params[0], params[1])


def test_parameters_of_any_layout_move_alike() -> None:
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        param = values.clone(memory_format=layout).requires_grad_()
        optimizer = CautiousAdamW([param], 0.1)
        for gradient_layout in (torch.contiguous_format, torch.channels_last):
            param.grad = values.cos().contiguous(memory_format=gradient_layout)
            optimizer.step()
        moved.append(param.detach().contiguous())
    torch.testing.assert_close(moved[0], moved[1])


def test_a_checkpoint_of_adamw_goes_on() -> None:
    param = torch.zeros(5, requires_grad=True)
    theirs = torch.optim.AdamW([param], 0.1)
    for n in range(3):
        param.grad = torch.arange(1.0, 6.0) * (1 + n)
        theirs.step()
    copy = param.detach().clone().requires_grad_()
    ours = CautiousAdamW([copy], 0.3)
    ours.load_state_dict(theirs.state_dict())
    for optimizer, p in ((theirs, param), (ours, copy)):
        p.grad = torch.ones(5)
        optimizer.step()
    torch.testing.assert_close(copy, param)  # all components agree


def test_a_parameter_that_never_has_a_gradient_has_no_state() -> None:
    frozen, param = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = CautiousAdamW([frozen, param], 0.1)
    param.grad = torch.ones(3)
    optimizer.step()
    assert list(optimizer.state) == [param]


def test_a_state_that_was_replaced_or_cleared_counts_from_the_next_step() -> None:
    param = torch.zeros(3, requires_grad=True)
    optimizer = CautiousAdamW([param], 0.1, weight_decay=0)
    for _ in range(2):
        param.grad = torch.ones(3)
        optimizer.step()
    optimizer.state[param]["exp_avg"] = torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], torch.full((3,), 0.1))
    optimizer.state.clear()
    optimizer.step()
    assert optimizer.state[param]["step"] == 1


def test_a_compiled_step_equals_the_eager_one_in_as_many_graphs_as_adamws() -> None:
    counts, ends = [], []
    for make in (CautiousAdamW, torch.optim.AdamW):
        params = [start.float().requires_grad_() for start in gradients(0)]
        optimizer = make(params, 0.1)
        counts.append(graphs(optimizer, params))
        ends.append(params)
    assert counts[0] <= counts[1]
    eager = [start.float().requires_grad_() for start in gradients(0)]
    optimizer = CautiousAdamW(eager, 0.1)
    for seed in range(8):
        follow(optimizer, eager, seed)
        optimizer.step()
    for compiled, param in zip(ends[0], eager, strict=True):
        torch.testing.assert_close(compiled, param)


def graphs(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> int:
    """Graphs of eight steps on a schedule, of which none may be broken."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor" if isinstance(optimizer, CautiousAdamW) else "eager")
    step = torch.compile(optimizer.step, backend=counter, fullgraph=isinstance(optimizer, CautiousAdamW))
    for seed in range(8):
        follow(optimizer, params, seed)
        step()
    return int(counter.frame_count)


def follow(optimizer: torch.optim.Optimizer, params: list[Tensor], step: int) -> None:
    """The gradients and the rate of a step."""
    for param, grad in zip(params, gradients(step), strict=True):
        param.grad = grad.float()
    optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
