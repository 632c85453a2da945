"""The optimizers in other people's training loops: transformers, accelerate, Lightning and skorch.

Some call ``step(closure)``, others ``step()``. What looks at the loss says so where it is given no closure.
"""

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import pytest
import pytorch_lightning
import skorch
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState, PartialState
from skorch.callbacks import Checkpoint, LoadInitState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.optimizers.registry import MAKES, Make, each_that

pytestmark = pytest.mark.filterwarnings("ignore")  # the clients warn of much that a small test does on purpose

CROSSED = {
    "gap-sgd",
    "continuous-sgd-quick",
    "gap-adamw-each",
    "aligned-sgd",
    "cautious-adamw",
    "pop-shipped",
    "psd-shipped",
    "l2l-shipped",
    "conjugate-gradient-search",
    "polyak",
}
each_crossed = each_that(lambda make: make.name in CROSSED)
each_that_looks_at_gradients = each_that(lambda make: make.name in CROSSED and not make.needs_loss)
each_that_looks_at_the_loss = each_that(lambda make: make.name in CROSSED and make.needs_loss)

BATCH, STEPS = 8, 6  # examples in a batch, and steps in an epoch
ONE_LINE = r"\A[^\n]*\bclosure\b[^\n]*\Z"  # of the error where there is no closure


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test in a folder of its own, and with the state of accelerate that a new process has."""
    monkeypatch.chdir(tmp_path)
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Net(nn.Module):
    """A small network in float64, so that sums in another order do not turn a choice."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        with torch.no_grad():
            for param in self.parameters():
                param.copy_(torch.randn(param.shape, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def examples() -> tuple[Tensor, Tensor]:
    """Inputs and targets of one epoch."""
    x = torch.randn(BATCH * STEPS, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.stack([x.sum(1), x[:, 0]], 1)


def batches(size: int = BATCH) -> "DataLoader[Any]":
    """The epoch, always in the same order."""
    return DataLoader(TensorDataset(*examples()), batch_size=size)


def loss_of(net: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return nn.functional.mse_loss(net(x), y)


def mean_loss(net: nn.Module) -> float:
    with torch.no_grad():
        return loss_of(net, examples()).item()


def assert_equal(make: Make, net: nn.Module, optimizer: Any, other: nn.Module, other_optimizer: Any) -> None:
    """Two runs have led to the same weights, by the same choices."""
    torch.testing.assert_close(dict(net.named_parameters()), dict(other.named_parameters()), **make.rounding)
    if make.selects:
        torch.testing.assert_close(optimizer.selection, other_optimizer.selection, **make.rounding)


def plain(make: Make, epochs: int = 1) -> tuple[nn.Module, Any]:
    """The run as one writes it by hand."""
    net = Net()
    optimizer = make(net.parameters())
    for batch in [batch for _ in range(epochs) for batch in batches()]:

        def closure(batch: Any = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            return loss

        if make.needs_loss:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return net, optimizer


def test_every_configuration_that_is_crossed_is_registered() -> None:
    assert {make.name for make in MAKES} >= CROSSED


@each_crossed
def test_the_run_that_the_clients_are_compared_with_goes_down(make: Make) -> None:
    assert mean_loss(plain(make, epochs=2)[0]) < 0.9 * mean_loss(Net())


# --- transformers.Trainer: step() -----------------------------------------------------------------------------------


class WithLoss(nn.Module):
    """The network in the form that Trainer asks for: keywords in, a dictionary with the loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": loss_of(self.net, (x, y))}


def trainer(make: Make, folder: Path, *, by_class: bool = False, **settings: Any) -> transformers.Trainer:
    """Trainer, with the optimizer made by it, in groups with and without weight decay, or handed to it."""
    x, y = examples()
    data = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    chosen = {"per_device_train_batch_size": BATCH, "num_train_epochs": 2, "save_strategy": "no", **settings}
    arguments = transformers.TrainingArguments(
        str(folder), report_to="none", logging_strategy="no", disable_tqdm=True, use_cpu=True, max_grad_norm=0, **chosen
    )
    model = WithLoss()
    if by_class:
        given = {"optimizer_cls_and_kwargs": (make.kind, {"lr": make.lr, **make.settings})}
    else:
        given = {"optimizers": (make(model.parameters()), None)}
    return transformers.Trainer(model, arguments, train_dataset=data, **given)


@each_that_looks_at_gradients
@pytest.mark.parametrize("by_class", [False, True], ids=["object", "class"])
def test_trainer_trains(make: Make, by_class: bool, tmp_path: Path) -> None:
    mine = trainer(make, tmp_path, by_class=by_class)
    mine.train()
    assert mine.state.global_step == 2 * STEPS
    assert mean_loss(mine.model.net) < 0.95 * mean_loss(Net())


@each_that_looks_at_gradients
def test_trainer_accumulates_the_gradients_of_a_batch(make: Make, tmp_path: Path) -> None:
    whole, parts = (
        trainer(make, tmp_path, per_device_train_batch_size=BATCH // n, gradient_accumulation_steps=n) for n in (1, 4)
    )
    whole.train()
    parts.train()
    assert parts.state.global_step == whole.state.global_step
    torch.testing.assert_close(list(parts.model.parameters()), list(whole.model.parameters()), rtol=1e-8, atol=1e-8)


@each_that_looks_at_gradients
def test_trainer_resumes_from_a_checkpoint_as_if_it_had_not_stopped(make: Make, tmp_path: Path) -> None:
    once = trainer(make, tmp_path, by_class=True, save_strategy="steps", save_steps=STEPS + 1)
    once.train()
    again = trainer(make, tmp_path, by_class=True)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS + 1}"))
    assert again.state.global_step == 2 * STEPS
    assert_equal(make, again.model, again.optimizer.optimizer, once.model, once.optimizer.optimizer)


@each_that_looks_at_the_loss
def test_trainer_gives_no_closure_which_what_looks_at_the_loss_says_in_a_line(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=ONE_LINE):
        trainer(make, tmp_path).train()


# --- accelerate: step(), or step(closure) where the loop is written so ----------------------------------------------


class Accelerated:
    """A loop with accelerate; `closures` says whether it gives closures to the optimizer."""

    def __init__(self, make: Make, accumulated: int = 1, closures: bool = False) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
        net = Net()
        prepared = self.accelerator.prepare(net, make(net.parameters()), batches(BATCH // accumulated))
        self.net, self.optimizer, self.batches = prepared
        self.closures = closures

    def epoch(self) -> "Accelerated":
        """This loop after another epoch."""
        for batch in self.batches:
            with self.accelerator.accumulate(self.net):
                evaluate = partial(self._evaluate, batch)
                if self.closures:
                    self.optimizer.step(evaluate)
                else:
                    evaluate()
                    self.optimizer.step()
                    self.optimizer.zero_grad()
        return self

    def _evaluate(self, batch: Any) -> Tensor:
        if self.closures:
            self.optimizer.zero_grad()
        loss = loss_of(self.net, batch)
        self.accelerator.backward(loss)
        return loss


@each_that_looks_at_gradients
def test_accelerate_trains_as_the_loop_by_hand_does(make: Make) -> None:
    loop = Accelerated(make).epoch()
    assert_equal(make, loop.net, loop.optimizer.optimizer, *plain(make))


@each_that_looks_at_gradients
def test_accelerate_accumulates_the_gradients_of_a_batch(make: Make) -> None:
    parts, (whole, _) = Accelerated(make, accumulated=4).epoch(), plain(make)
    torch.testing.assert_close(list(parts.net.parameters()), list(whole.parameters()), rtol=1e-8, atol=1e-8)


@each_crossed
def test_accelerate_resumes_from_a_saved_state_as_if_it_had_not_stopped(make: Make, tmp_path: Path) -> None:
    once = Accelerated(make, closures=make.needs_loss).epoch()
    once.accelerator.save_state(str(tmp_path / "state"))
    once.epoch()
    again = Accelerated(make, closures=make.needs_loss)
    again.accelerator.load_state(str(tmp_path / "state"))
    again.epoch()
    assert_equal(make, again.net, again.optimizer.optimizer, once.net, once.optimizer.optimizer)


@each_that_looks_at_the_loss
def test_accelerate_hands_a_closure_on(make: Make) -> None:
    loop = Accelerated(make, closures=True).epoch()
    assert_equal(make, loop.net, loop.optimizer.optimizer, *plain(make))


@each_that_looks_at_the_loss
def test_accelerates_usual_loop_gives_no_closure(make: Make) -> None:
    with pytest.raises(ValueError, match=ONE_LINE):
        Accelerated(make).epoch()


# --- Lightning: step(closure) under automatic optimization, else as the module is written ---------------------------


class Automatic(pytorch_lightning.LightningModule):
    """The network as Lightning's module."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.net, self.make = Net(), make

    def configure_optimizers(self) -> Any:
        return self.make(self.net.parameters())

    def training_step(self, batch: Any, index: int) -> Tensor | None:
        return loss_of(self.net, batch)


class Manual(Automatic):
    """The same with a step by hand, `closures` says whether with a closure."""

    def __init__(self, make: Make, closures: bool = False) -> None:
        super().__init__(make)
        self.automatic_optimization, self.closures = False, closures

    def training_step(self, batch: Any, index: int) -> None:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(self.net, batch)
            self.manual_backward(loss)
            return loss

        if self.closures:
            optimizer.step(closure=closure)
        else:
            closure()
            optimizer.step()


def lightning(folder: Path, epochs: int = 1, **settings: Any) -> pytorch_lightning.Trainer:
    return pytorch_lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def fit(module: Automatic, folder: Path, epochs: int = 1, size: int = BATCH, **settings: Any) -> Any:
    """Train a module; returns its network and optimizer."""
    program = lightning(folder, epochs, **settings)
    program.fit(module, batches(size))
    return module.net, program.optimizers[0]


@each_crossed
def test_lightning_gives_a_closure_under_automatic_optimization(make: Make, tmp_path: Path) -> None:
    assert_equal(make, *fit(Automatic(make), tmp_path), *plain(make))


@each_that_looks_at_gradients
def test_lightning_accumulates_the_gradients_of_a_batch(make: Make, tmp_path: Path) -> None:
    parts, _ = fit(Automatic(make), tmp_path, size=BATCH // 4, accumulate_grad_batches=4)
    whole, _ = plain(make)
    torch.testing.assert_close(list(parts.parameters()), list(whole.parameters()), rtol=1e-8, atol=1e-8)


@each_crossed
def test_lightning_resumes_from_a_checkpoint_as_if_it_had_not_stopped(make: Make, tmp_path: Path) -> None:
    first = lightning(tmp_path, epochs=1)
    first.fit(Automatic(make), batches())
    first.save_checkpoint(tmp_path / "last.ckpt")
    module, second = Automatic(make), lightning(tmp_path, epochs=2)
    second.fit(module, batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert second.global_step == 2 * STEPS
    assert_equal(make, module.net, second.optimizers[0], *fit(Automatic(make), tmp_path, epochs=2))


@each_crossed
def test_lightning_steps_by_hand_with_a_closure(make: Make, tmp_path: Path) -> None:
    assert_equal(make, *fit(Manual(make, closures=True), tmp_path), *plain(make))


@each_that_looks_at_gradients
def test_lightning_steps_by_hand_without_a_closure(make: Make, tmp_path: Path) -> None:
    assert_equal(make, *fit(Manual(make), tmp_path), *plain(make))


@each_that_looks_at_the_loss
def test_lightnings_manual_optimization_gives_no_closure_by_itself(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=ONE_LINE):
        fit(Manual(make), tmp_path)


# --- skorch: step(closure) ------------------------------------------------------------------------------------------


def skorch_net(make: Make, **settings: Any) -> skorch.NeuralNet:
    """A net that knows the optimizer by its class and settings, as its users write it."""
    given = {f"optimizer__{name}": value for name, value in make.settings.items() if value != "shipped"}
    fixed = {"batch_size": BATCH, "max_epochs": 1, "train_split": None, "verbose": 0, **settings}
    return skorch.NeuralNet(Net, nn.MSELoss, optimizer=make.kind, lr=make.lr, **given, **fixed)


@each_crossed
def test_skorch_gives_a_closure(make: Make) -> None:
    net = skorch_net(make).fit(*examples())
    assert_equal(make, net.module_, net.optimizer_, *plain(make))


@each_crossed
def test_skorch_goes_on_after_pickling_as_if_nothing_had_happened(make: Make) -> None:
    once = skorch_net(make).fit(*examples())
    again = pickle.loads(pickle.dumps(once))
    for net in (once, again):
        net.partial_fit(*examples())
    assert_equal(make, again.module_, again.optimizer_, once.module_, once.optimizer_)
    assert_equal(make, once.module_, once.optimizer_, *plain(make, epochs=2))


@each_crossed
def test_skorch_resumes_from_a_checkpoint_as_if_it_had_not_stopped(make: Make, tmp_path: Path) -> None:
    checkpoint = Checkpoint(monitor=None, dirname=str(tmp_path / "saved"))
    skorch_net(make, callbacks=[checkpoint]).fit(*examples())
    again = skorch_net(make, callbacks=[LoadInitState(checkpoint)]).fit(*examples())
    assert_equal(make, again.module_, again.optimizer_, *plain(make, epochs=2))
