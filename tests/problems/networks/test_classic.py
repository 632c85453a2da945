import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from optrepro.problems.networks import classic

IMAGE = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "input_shape", "classes", "settings", "parameters"),
    [
        ("softmax", (1, 28, 28), 10, {}, 784 * 10 + 10),
        ("perceptron", (1, 28, 28), 10, {}, 784 * 128 + 128 + 128 * 10 + 10),
        ("perceptron", (48,), 10, {"hidden": 48}, 48 * 48 + 48 + 48 * 10 + 10),
        ("cnn", IMAGE, 20, {"width": 8}, 9 * (3 * 8 + 8 * 16 + 16 * 32) + 8 + 16 + 32 + 16 * 32 * 20 + 20),
        ("resnet18", IMAGE, 10, {}, 11_173_962),
        ("resnet18", IMAGE, 100, {}, 11_220_132),
        ("resnet18", IMAGE, 100, {"width": 8}, 182_252),
    ],
)
def test_number_of_parameters(name, input_shape, classes, settings, parameters):
    network = classic.build(name, input_shape, classes, seed=0, **settings)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("input_shape", [(1, 8, 8), (1, 28, 28), IMAGE])
@pytest.mark.parametrize("name", classic.names())
def test_logits_are_finite_and_every_parameter_has_a_gradient(name, input_shape):
    network = classic.build(name, input_shape, 7, seed=0)
    logits = network(torch.randn(4, *input_shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 7)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("name", classic.names())
def test_bfloat16_autocast_gives_nearly_the_same_logits(name):
    network = classic.build(name, IMAGE, 10, seed=0)
    images = torch.randn(8, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = network(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(images)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", classic.names())
def test_initial_weights_depend_on_the_seed_alone(name):
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in classic.build(name, (1, 8, 8), 10, seed=seed).parameters()])

    torch.manual_seed(1)
    first = weights(5)
    torch.manual_seed(2)
    assert torch.equal(weights(5), first)
    assert not torch.equal(weights(6), first)


def test_building_leaves_the_global_random_state_as_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    classic.build("cnn", IMAGE, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_is_built_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        network = classic.build("softmax", (4,), 2, seed=0)
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_softmax_regression_is_linear_in_its_input():
    network = classic.build("softmax", (1, 8, 8), 10, seed=0)
    a, b = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network((a + b) / 2), (network(a) + network(b)) / 2)


def test_resnet_keeps_the_resolution_of_the_stem_and_halves_it_three_times():
    network = classic.build("resnet18", IMAGE, 10, seed=0)
    sizes = []
    for module in network[1:]:
        module.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    network(torch.zeros(2, *IMAGE))
    assert sizes[0] == (64, 32, 32)
    assert sizes[3:11:2] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_the_layout_in_memory_changes_no_value_of_resnet_and_lasts_to_its_end():
    network = classic.build("resnet18", IMAGE, 10, seed=0, width=8)
    images = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images), network[1:](images))
    assert network[:-3](images).is_contiguous(memory_format=torch.channels_last)


def test_resnet_convolutions_start_at_he_scale():
    network = classic.build("resnet18", IMAGE, 10, seed=0)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 20
    for convolution in convolutions:
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("name", "expected"), [("softmax", True), ("perceptron", True), ("cnn", False)])
def test_a_stacked_batch_computes_what_each_copy_computes(name, expected):
    copies = [classic.build(name, (1, 8, 8), 10, seed=seed) for seed in range(3)]
    parameters, buffers = stack_module_state(copies)
    images = torch.randn(3, 5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    stacked = vmap(lambda p, b, x: functional_call(copies[0], (p, b), (x,)))(parameters, buffers, images)
    alone = torch.stack([network(x) for network, x in zip(copies, images, strict=True)])
    torch.testing.assert_close(stacked, alone)
    assert classic.stackable(name) is expected


def test_batch_norm_is_not_stackable():
    assert not classic.stackable("resnet18")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": "vgg"}, "unknown network 'vgg': choose from softmax, perceptron, cnn, resnet18"),
        ({"name": "perceptron", "width": 3}, "unknown setting width = 3 of perceptron: it has hidden"),
        ({"name": "softmax", "hidden": 3}, "unknown setting hidden = 3 of softmax: it has none"),
        ({"name": "cnn", "width": 0}, "width = 0 of cnn is not at least 1"),
        ({"name": "cnn", "input_shape": (48,)}, r"input_shape = \(48,\): cnn takes images of shape \(C, H, W\)"),
        ({"name": "softmax", "classes": 0}, "classes = 0 is not at least 1"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        classic.build(**{"input_shape": IMAGE, "classes": 10, "seed": 0} | arguments)


def test_stackable_knows_only_the_networks():
    with pytest.raises(ValueError, match="unknown network 'vgg'"):
        classic.stackable("vgg")
