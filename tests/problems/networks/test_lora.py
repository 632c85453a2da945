import pytest
import torch

from optrepro.problems.networks import gpt as language
from optrepro.problems.networks import lora
from optrepro.problems.networks import vit as vision

TOKENS = torch.arange(24).view(2, 12)


def gpt(seed=0):
    return language.gpt(256, 12, 32, 2, 2, seed)


def vit(classes=4, seed=0):
    return vision.vit((1, 8, 8), classes, 4, 32, 2, 2, seed)


def layers(module):
    return {name.rpartition(".lora_")[0] for name in lora.trainable(module) if "lora_" in name}


def test_at_the_start_the_adapted_model_is_the_backbone():
    backbone, images = vit(), torch.randn(3, 1, 8, 8)
    assert torch.equal(lora.lora(gpt(), 4, 8.0, None, seed=1)(TOKENS), gpt()(TOKENS))
    assert torch.equal(lora.lora(vit(), 4, 8.0, None, seed=1)(images), backbone(images))


def test_only_adapters_train_and_reach_every_linear_layer_of_the_blocks():
    module = lora.lora(gpt(), 4, 8.0, None, seed=0)
    blocks = {f"network.transformer.h.{n}." for n in (0, 1)}
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert layers(module) == {block + part for block in blocks for part in parts}
    assert all("lora_" in name for name in lora.trainable(module))
    assert lora.trainable(module)["network.transformer.h.0.attn.c_attn.lora_A.default.weight"].shape == (4, 32)


def test_a_vit_has_a_fresh_head_beside_its_adapters():
    module = lora.lora(vit(), 4, 8.0, None, seed=1, head=vision.HEAD)
    parts = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
    assert layers(module) == {f"network.vit.layers.{n}.{part}" for n in (0, 1) for part in parts}
    rest = [name for name in lora.trainable(module) if "lora_" not in name]
    assert rest == ["network.classifier.weight", "network.classifier.bias"]
    assert not torch.equal(module.get_submodule(vision.HEAD).weight, vit().get_submodule(vision.HEAD).weight)


def test_targets_choose_the_layers_by_the_end_of_their_names():
    assert layers(lora.lora(gpt(), 2, 4.0, ["c_attn"], seed=0)) == {
        "network.transformer.h.0.attn.c_attn",
        "network.transformer.h.1.attn.c_attn",
    }
    assert len(layers(lora.lora(gpt(), 2, 4.0, ["attn.c_proj"], seed=0))) == 2
    with pytest.raises(ValueError, match=r"'proj' is not a linear layer; allowed are network\.transformer"):
        lora.lora(gpt(), 2, 4.0, ["proj"], seed=0)


@pytest.mark.parametrize(
    ("rank", "alpha", "message"), [(0, 8.0, "rank = 0 is not at least 1"), (4, 0.0, "alpha = 0.0 is not positive")]
)
def test_impossible_adapters_are_refused(rank, alpha, message):
    with pytest.raises(ValueError, match=message):
        lora.lora(gpt(), rank, alpha, None, seed=0)


def test_the_seed_alone_draws_the_adapters_and_the_head():
    state = torch.random.get_rng_state()
    first, again, other = (
        lora.trainable(lora.lora(vit(), 4, 8.0, None, seed=seed, head=vision.HEAD)) for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = [name for name in first if not torch.equal(first[name], other[name])]
    assert len(differing) == sum("lora_A" in name for name in first) + 2


def test_adapting_gives_no_warning(recwarn, capfd):
    lora.lora(gpt(), 4, 8.0, None, seed=0)(TOKENS).sum().backward()
    lora.lora(vit(), 4, 8.0, None, seed=0, head=vision.HEAD)(torch.randn(2, 1, 8, 8)).sum().backward()
    assert not recwarn.list
    assert capfd.readouterr().err == ""


def test_training_changes_the_adapters_and_leaves_the_backbone():
    module = lora.lora(gpt(), 4, 8.0, None, seed=0)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trained = lora.trainable(module)
    optimizer = torch.optim.Adam(trained.values(), 0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(TOKENS)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(trained)


@pytest.mark.parametrize(("make", "head"), [(gpt, None), (vit, vision.HEAD)])
def test_adapters_merged_into_the_weights_give_the_same_outputs_and_gradients(make, head):
    module = lora.lora(make(), 4, 8.0, None, seed=0, head=head)
    inputs = TOKENS if make is gpt else torch.randn(3, 1, 8, 8)
    trained = list(lora.trainable(module).values())
    with torch.no_grad():
        for p in trained:
            p.normal_(0, 0.1)
    apart, merged = module(inputs), lora.merged_call(module, lora.layers(module), inputs)
    torch.testing.assert_close(merged, apart)
    assert not torch.allclose(apart, make()(inputs), atol=0.01)  # that there is something to merge
    for a, b in zip(*(torch.autograd.grad(out.square().mean(), trained) for out in (merged, apart)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert torch.equal(module(inputs), apart)


@pytest.mark.parametrize("make", [gpt, vit])
def test_the_weights_of_a_backbone_come_back(make, tmp_path):
    lora.save(make(seed=1), tmp_path / "weights.safetensors")
    loaded = lora.load(make(seed=2), tmp_path / "weights.safetensors")
    for a, b in zip(loaded.parameters(), make(seed=1).parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_same_weights_give_the_same_file(tmp_path):
    for file in ("a", "b"):
        lora.save(gpt(), tmp_path / file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_backbone_keeps_its_own_head_if_the_classes_are_others(tmp_path):
    lora.save(vit(classes=4, seed=1), tmp_path / "weights")
    loaded = lora.load(vit(classes=6, seed=2), tmp_path / "weights", vision.HEAD)
    source, fresh = dict(vit(4, 1).named_parameters()), dict(vit(6, 2).named_parameters())
    for name, p in loaded.named_parameters():
        assert torch.equal(p, (fresh if name.startswith(vision.HEAD) else source)[name])
    with pytest.raises(
        ValueError, match=r"network.classifier.bias has the shape \(4,\) in the file and \(6,\) in the backbone"
    ):
        lora.load(vit(classes=6), tmp_path / "weights")


def test_weights_of_another_backbone_are_refused(tmp_path):
    lora.save(gpt(), tmp_path / "weights")
    with pytest.raises(ValueError, match="weights does not fit the backbone: network"):
        lora.load(vit(), tmp_path / "weights")
