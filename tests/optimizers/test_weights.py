"""The policies in the wheel do what their model card says, and the card is what their file says."""

from pathlib import Path

import pytest

from optrepro.config import load as load_config
from optrepro.experiments.descent import fixed_sets
from optrepro.metalearning.pop import environment
from optrepro.optimizers import pop
from optrepro.optimizers._pop_policy import load
from optrepro.problems.functions.settings import PriorSettings

ROOT = Path(__file__).parents[2]
CARDS = (pop.WEIGHTS / "README.md").read_text().split("# Model card: ")[1:]
POLICIES = sorted(path.stem for path in pop.WEIGHTS.glob("pop*.safetensors"))


def card_of(name):
    return next(card for card in CARDS if card.startswith(f"`{name}`"))


def facts_of(name):
    return load(pop.WEIGHTS / f"{name}.safetensors")[1]


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
