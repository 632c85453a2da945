"""The policies in the wheel do what their model card says, and the card is what their file says."""

import os
from pathlib import Path

import pytest
import torch

from optrepro import runtable
from optrepro.config import load as load_config
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context
from optrepro.experiments.descent import fixed_sets
from optrepro.experiments.meta import train_step_rules
from optrepro.metalearning.pop import environment
from optrepro.optimizers import _learned, pop
from optrepro.optimizers._pop_policy import load
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.data import archives
from optrepro.problems.functions.settings import PriorSettings

ROOT = Path(__file__).parents[2]
CARDS = (pop.WEIGHTS / "README.md").read_text().split("## Model card: ")[1:]
HANDED = os.environ.get("OPTREPRO_DATA")
RULES = "psd", "l2l"
POLICIES = sorted(path.stem for path in pop.WEIGHTS.glob("pop*.safetensors"))


def card_of(name):
    return next(card for card in CARDS if card.startswith(f"`{name}`"))


def rule_of(name):
    """A shipped step rule, and the metadata of its file."""
    kind, settings = (L2LPolicy, L2LSettings) if name == "l2l" else (StepPolicy, StepPolicySettings)
    return _learned.load(kind, settings, pop.WEIGHTS / f"{name}.safetensors")


def facts_of(name):
    return load(pop.WEIGHTS / f"{name}.safetensors")[1]


def test_every_file_of_weights_has_its_checksum():
    listed = [line.split()[1] for line in (pop.WEIGHTS / _learned.CHECKSUMS).read_text().splitlines()]
    assert listed == sorted(path.name for path in pop.WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize("name", POLICIES)
def test_the_card_tells_seed_config_hash_and_scores_of_the_file(name):
    card, facts = card_of(name), facts_of(name)
    for fact in (facts["seed"], facts["config_hash"], f"{facts['functions_seen']:,}"):
        assert str(fact) in card
    for scores in (facts["validation"], facts["test"]):
        assert f"improvement {scores['improvement']:.3f}, digits {scores['digits']:.2f}" in card


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_has_the_scores_of_its_card(name):
    """Runs are chaotic, so another processor's last bits move the means of 1,024 functions a little."""
    policy, facts = load(pop.WEIGHTS / f"{name}.safetensors")
    settings = load_config(ROOT / "config" / "gpu.yaml")
    fixed = fixed_sets.fixed(PriorSettings(**facts["prior"]), settings.seed, "validation", 1024, 2)
    horizon = policy.settings.horizon
    values = environment.roll_out(policy, environment.of(fixed.functions), fixed.start, horizon).values
    improvement, digits = fixed_sets.progress((values.cummin(0).values - fixed.extrema.minimum).numpy())
    assert improvement.mean() == pytest.approx(facts["validation"]["improvement"], abs=0.006)
    assert digits.mean() == pytest.approx(facts["validation"]["digits"], abs=0.2)


@pytest.mark.parametrize("name", RULES)
def test_the_card_of_a_step_rule_tells_seed_and_scores_of_the_file(name):
    card, facts = card_of(name), rule_of(name)[1]
    scores = facts["validation"]
    assert str(facts["seed"]) in card
    assert f"mean objective over 400 iterations {scores['area']:.3f}, at the end {scores['final']:.3f}" in card


@pytest.mark.skipif(not HANDED, reason="OPTREPRO_DATA is not set, and the validation problems are of MNIST")
@pytest.mark.parametrize("name", RULES)
def test_a_step_rule_has_the_scores_of_its_card(name, monkeypatch):
    monkeypatch.setattr(archives, "DATA_DIR", Path(HANDED))
    rule, facts = rule_of(name)
    settings = load_config(ROOT / "config" / "overnight.yaml")
    [batch] = [batch for batch in runtable.batches(settings, "lto-training") if batch.name == name]
    context = Context(settings.seed, torch.device("cpu"), Checkpoint(None), dataset="mnist")
    learning = train_step_rules._Learning(settings.studies["lto-training"], batch, context)
    learning.trainer.rule.load_state_dict(rule.state_dict())
    area, final = learning._measure(learning.trainer.rule, "standard")
    assert area == pytest.approx(facts["validation"]["area"], abs=0.002)
    assert final == pytest.approx(facts["validation"]["final"], abs=0.005)
