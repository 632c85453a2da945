"""A random projection that keeps inner products."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from optrepro.optimizers.sketch import Sketch


def folded(sketch: Sketch, tensors: Sequence[Tensor | None]) -> Tensor:
    return sketch.fold(sketch.sample(tensors))


def test_a_sketch_keeps_inner_products_within_its_stated_error() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [4000, 30, 8002]
    total = sum(sizes)
    x = torch.randn(total, generator=generator) ** 3  # a heavy tail
    y = 0.5 * x + torch.randn(total, generator=generator)
    exact, scale = torch.dot(x, y), x.norm() * y.norm()
    estimates = []
    for seed in range(400):
        sketch = Sketch(sizes, 4096, 32, seed, torch.device("cpu"))
        estimates.append(torch.dot(folded(sketch, x.split(sizes)), folded(sketch, y.split(sizes))))
    assert sketch.stride > 1
    assert sketch.width < total / sketch.stride
    errors = (torch.stack(estimates) - exact) / scale
    stated = ((1 + (exact / scale) ** 2) / sketch.width + (sketch.stride - 1) * ((x * y / scale) ** 2).sum()).sqrt()
    assert abs(errors.mean()) < 4 * stated / 20
    assert 0.7 * stated < errors.square().mean().sqrt() < 1.3 * stated


@pytest.mark.parametrize("sizes", [[300] * 40, [12_000], [7, 20_000, 0, 3]])
def test_a_sample_has_every_so_many_coordinates_from_each_tensor_however_small(sizes: list[int]) -> None:
    sketch = Sketch(sizes, 4096, 32, 0, torch.device("cpu"))
    everything = torch.arange(1.0, sum(sizes) + 1)
    sample = sketch.sample(everything.split(sizes))
    assert len(sample) == len(sketch.signs)
    taken = sample[sample > 0]
    assert (taken.diff() == sketch.stride).all()
    assert taken[0] <= sketch.stride
    assert taken[-1] > sum(sizes) - sketch.stride


def test_a_tensor_without_a_gradient_counts_as_zeros() -> None:
    sizes = [300] * 40
    sketch = Sketch(sizes, 4096, 32, 0, torch.device("cpu"))
    tensors = list(torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0)).split(sizes))
    missing = [None, *tensors[1:]]
    torch.testing.assert_close(folded(sketch, missing), folded(sketch, [torch.zeros(300), *tensors[1:]]))


def test_sketching_leaves_the_tensors_as_they_were() -> None:
    for sizes in ([8], [64], [400], [300] * 40):
        sketch = Sketch(sizes, 4096, 32, 0, torch.device("cpu"))
        tensors = [torch.ones(size) for size in sizes]
        folded(sketch, tensors)
        assert all((tensor == 1).all() for tensor in tensors)


def test_sketches_of_parts_with_other_seeds_add_up_to_one_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6000, generator=generator)
    y = x + 0.5 * y
    estimates = []
    for seed in range(200):
        parts = [Sketch([4000], 4096, 32, 2 * seed, torch.device("cpu"), total=3000)]
        parts += [Sketch([1990, 10, 0], 4096, 32, 2 * seed + 1, torch.device("cpu"), total=3000)]
        assert parts[0].width == parts[1].width
        sums = [
            folded(parts[0], [v[:4000]]) + folded(parts[1], [v[4000:5990], v[5990:], torch.zeros(0)]) for v in (x, y)
        ]
        estimates.append(torch.dot(*sums))
    error = (torch.stack(estimates) - x @ y) / (x.norm() * y.norm())
    assert abs(error.mean()) < 4 * error.std() / 200**0.5
    assert error.std() < 0.35  # 24 buckets


def test_a_rank_without_elements_has_a_sketch_of_zeros() -> None:
    sketch = Sketch([], 4096, 32, 0, torch.device("cpu"), total=3000)
    assert folded(sketch, []).tolist() == [0.0] * sketch.width
