import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from optrepro import config
from optrepro.config import Config, ConfigError
from optrepro.optimizers import _pop_policy, l2l, predicted_step
from optrepro.settings import Model
from optrepro.studies.learner import L2LConfig, LearnerStudy, StepPolicyConfig
from optrepro.studies.objectives import ObjectivesStudy, Panel
from optrepro.studies.policy import NetworkConfig, PolicyStudy
from optrepro.studies.training import TrainingStudy

ROOT = Path(__file__).parents[1]
SCALES = sorted(path for path in (ROOT / "config").glob("*.yaml") if "\nextends:" in path.read_text())
Tiny = Callable[..., Config]

scales = pytest.mark.parametrize("path", SCALES, ids=lambda path: path.stem)


def leaves(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key, ...) if isinstance(tree, Mapping) else ...
    return tree


def test_there_are_six_scales_and_the_paper_has_variants() -> None:
    scales = ["gpu", "laptop", "nights", "overnight", "paper-commonsense", "paper-dino", "paper", "smoke"]
    assert [path.stem for path in SCALES] == scales


@pytest.mark.parametrize(("variant", "study"), [("paper-commonsense", "gap-lm"), ("paper-dino", "gap-vit")])
def test_a_variant_of_the_paper_differs_in_one_fine_tuning(variant: str, study: str) -> None:
    paper, other = (config.load(ROOT / "config" / f"{name}.yaml") for name in ("paper", variant))
    assert {name for name in paper.studies if paper.studies[name] != other.studies[name]} == {study}
    assert list(paper.studies) == list(other.studies)


@scales
def test_every_scale_loads_under_its_own_name(path: Path) -> None:
    assert config.load(path).scale == path.stem


@scales
def test_a_scale_states_only_what_differs(path: Path) -> None:
    own = yaml.safe_load(path.read_text())
    extends = own.pop("extends")
    base: dict[str, Any] = {}
    for parent in [extends] if isinstance(extends, str) else extends:
        file = path.parent / parent
        base = config._merge(base, yaml.safe_load((file / "studies.yaml" if file.is_dir() else file).read_text()))
    repeated = [".".join(keys) for keys, value in leaves(own) if at(base, keys) == value]
    assert repeated == []


@scales
def test_the_resolved_config_written_as_json_loads_as_the_same_config(path: Path, tmp_path: Path) -> None:
    settings = config.load(path, ["studies.vlse.optimizers.adam.settings.eps=1e-8", "studies.vlse.starts=3"])
    resolved = tmp_path / "config.json"
    resolved.write_text(settings.model_dump_json(indent=1, by_alias=True))
    assert config.load(resolved) == settings


@scales
def test_every_scale_fits_the_checked_in_schema(path: Path) -> None:
    schema = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
    jsonschema.validate(json.loads(config.load(path).model_dump_json(by_alias=True)), schema)


def test_the_checked_in_schema_is_the_generated_one() -> None:
    assert json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text()) == config.schema()


ERRORS = {
    "a misspelt key": (
        "studies.boxes.budgt=3",
        "studies.boxes.budgt is not a key of the config; did you mean budget?",
    ),
    "a key of another place that resembles one of this place": (
        "studies.boxes.learning_rate=0.1",
        "studies.boxes.learning_rate is not a key of the config; did you mean learning_rates?",
    ),
    "a key that resembles none": ("zzz=3", "zzz is not a key of the config"),
    "a misspelt key of an optimizer": (
        "studies.boxes.optimizers.sgd.setings={}",
        "studies.boxes.optimizers.sgd.setings is not a key of the config; did you mean settings?",
    ),
    "a wrong type": (
        "studies.boxes.budget=many",
        "studies.boxes.budget = 'many' is not allowed. Input should be a valid integer",
    ),
    "a wrong type of a key that is named like a kind of study": (
        "studies.boxes.functions=3",
        "studies.boxes.functions = 3 is not allowed. It must be a list",
    ),
    "a wrong type of a whole study": ("studies.boxes=3", "studies.boxes = 3 is not allowed. It must be a mapping"),
    "a value out of range": (
        "studies.boxes.budget=0",
        "studies.boxes.budget = 0 is not allowed. Input should be greater than or equal to 1",
    ),
    "an item out of range": (
        "studies.images.optimizers.sgd.learning_rates=[0.1, -1]",
        "studies.images.optimizers.sgd.learning_rates[1] = -1 is not allowed. Input should be greater than 0",
    ),
    "a batch without two halves": (
        "studies.images.batch_size=15",
        "studies.images.batch_size = 15 is not allowed. Input should be a multiple of 2",
    ),
    "a word that is none of the choices": (
        "studies.images.schedule=linear",
        "studies.images.schedule = 'linear' is not allowed. Input should be 'cosine', 'step' or 'constant'",
    ),
    "a value of none of its types": (
        "studies.images.runs_per_job=0",
        "studies.images.runs_per_job = 0 is not allowed. Input should be greater than or equal to 1, or Input should "
        "be 'optimizer' or 'study'",
    ),
    "an unknown kind of study": (
        "studies.boxes.kind=box",
        "studies.boxes.kind = 'box' is not allowed. It is one of training, functions, surfaces, families, concept",
    ),
    "a study without a kind": ("studies.new={}", "studies.new.kind is missing"),
    "an optimizer without a class": (
        "studies.boxes.optimizers.new={label: new}",
        "studies.boxes.optimizers.new.class is missing",
    ),
    "a name that cannot stand in a path": (
        "studies.boxes.optimizers.A_b={label: x, class: torch.optim.SGD}",
        "studies.boxes.optimizers.A_b = 'A_b' is not allowed. It must be a ",
    ),
    "unequal tuning budgets": (
        "studies.images.optimizers.sgd.learning_rates=[0.1]",
        "studies.images: optimizers.sgd.learning_rates has 1 values and the study's grid has 2: "
        "every optimizer gets the same tuning budget",
    ),
    "a rate that is tried twice": (
        "studies.images.learning_rates=[0.1, 0.1]",
        "studies.images.learning_rates: [0.1, 0.1] must not contain a learning rate twice",
    ),
    "shares of an unknown row": (
        "studies.images.optimizers.sgd.shares_of=nobody",
        "studies.images: optimizers.sgd.shares_of = 'nobody' is not one of ['gap']",
    ),
    "shares of a row that itself repeats shares": (
        "studies.images.optimizers.sgd.shares_of=random",
        "studies.images: optimizers.sgd.shares_of = 'random' is not one of ['gap']",
    ),
    "a learning rate among an optimizer's settings": (
        "studies.images.optimizers.sgd.settings.lr=0.1",
        "studies.images.optimizers.sgd.settings: lr = 0.1 is not allowed: the learning rate is tuned, set "
        "`learning_rates`",
    ),
    "a learning rate among a study's settings": (
        "studies.images.settings.lr=0.1",
        "studies.images.settings: lr = 0.1 is not allowed: the learning rate is tuned, set `learning_rates`",
    ),
}


@pytest.mark.parametrize(("override", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_one_line_that_names_setter_key_value_and_what_is_allowed(
    override: str, message: str, tiny: Tiny
) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(override, "seed=8")
    assert str(caught.value).startswith(f"override {override}: {message}")
    assert "\n" not in str(caught.value)


def test_an_error_names_the_file_that_set_the_key(tiny_file: Path) -> None:
    child = tiny_file.with_name("child.yaml")
    child.write_text("extends: tiny.yaml\nscale: child\nstudies: {boxes: {starts: 0}}\n")
    tiny_file.write_text(tiny_file.read_text().replace("resolution: 8", "resolution: 2"))
    with pytest.raises(ConfigError) as caught:
        config.load(child)
    assert str(caught.value).splitlines() == [
        f"{child}: studies.boxes.starts = 0 is not allowed. Input should be greater than or equal to 1",
        f"{tiny_file}: studies.surfaces.resolution = 2 is not allowed. Input should be greater than or equal to 8",
    ]


def test_a_missing_key_is_reported_with_the_file_of_what_lacks_it(tiny_file: Path) -> None:
    child = tiny_file.with_name("child.yaml")
    child.write_text("extends: tiny.yaml\nstudies: {more: {kind: surfaces, resolution: 8}}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(child, ["seed=8"])
    assert str(caught.value) == f"{child}: studies.more.functions is missing"


@pytest.mark.parametrize("text", ["seed", "=8", "seed=[8"])
def test_an_override_of_the_wrong_form_is_one_line_that_names_it(text: str, tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="override") as caught:
        tiny(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line_that_names_the_files_beside_it(tiny_file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tiny_file.with_name("tin.yaml"))
    assert str(caught.value) == f"{tiny_file.with_name('tin.yaml')} does not exist; the folder holds {tiny_file.name}"


def test_a_missing_parent_is_named(tiny_file: Path) -> None:
    tiny_file.write_text("extends: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        config.load(tiny_file)


@pytest.mark.parametrize(("text", "fault"), [("a: [1\n", "is not valid YAML"), ("- 1\n", "must hold a mapping")])
def test_a_file_that_is_no_mapping_is_one_line_that_names_it(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=fault) as caught:
        config.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


REFUSED = {
    "a key that stands twice": ("seed: 1\nscale: bad\nseed: 2\n", ", line 3: the key 'seed' stands already in line 1"),
    "a key that stands twice within": (
        "studies:\n  a: {kind: x}\n  a: {kind: y}\n",
        ", line 3: the key 'a' stands already in line 2",
    ),
    "what JSON has not": ("seed: 2020-01-01\n", ", line 1: '2020-01-01' is of the type timestamp; allowed are texts"),
    "an object of Python": ("seed: !!python/name:os.system\n", ", line 1: '' is of the type python/name:os.system"),
    "a number that is not finite": ("a: 1\nseed: 1e999\n", ", line 2: '1e999' is not allowed; a number is finite"),
    "a number that is endless": (f"seed: {'9' * 5000}\n", ", line 1: '99999"),
    "a value that holds itself": ("seed: &a [*a]\n", ", line 1: values are nested more than 40 deep"),
    "brackets that would overflow the stack": ("seed: " + "[" * 10**5, ", line 1: values are nested more than 40 deep"),
    "aliases that multiply": (
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcde", "bcdef", strict=True)),
        ", line 1: there are more than 200,000 values",
    ),
    "bytes that are no text": (b"scale: bad\nseed: \xff\n", ", line 2: the byte 0xff is not allowed"),
    "a list as a key": ("? [a]\n: 1\n", ", line 1: a list or a mapping is not allowed as a key"),
    "extends that is no name": ("extends: [3]\n", ": extends = [3] is not allowed; it is the name of a file or folder"),
    "a folder that holds nothing": ("extends: .\n", " is a folder without optimizers.yaml and studies.yaml"),
    "a whole alphabet as a seed": (f"scale: bad\nstudies: {{}}\nseed: [{'a, ' * 5000}]\n", ": seed = ['a', 'a', 'a'"),
    "the folder of the published results": ("scale: published\nstudies: {}\n", ": scale: 'published' is a folder of"),
    "the folder of the checksums": ("scale: data\nstudies: {}\n", ": scale: 'data' is a folder of"),
    "a scale that leaves the results": ("scale: ../x\nstudies: {}\n", ": scale = '../x' is not allowed. It must be a"),
    "a scale that is no name of a folder": (f"scale: {'x' * 300}\nstudies: {{}}\n", ": scale = 'xxx"),
    "the scale of another file": (
        "extends: tiny.yaml\nseed: 8\n",
        ": scale = 'tiny' is not allowed; a scale is named as",
    ),
    "a selection that is no list": (
        "scale: bad\noptimizers: {s: {}}\nstudies: {a: {kind: functions, optimizers: {from: s, drop: 3}}}\n",
        ": studies.a.optimizers.drop = 3 is not allowed. It must be a list of names of rows",
    ),
    "rows that are none": ("scale: bad\noptimizers: 3\nstudies: {}\n", ": optimizers = 3 is not allowed. It must be a"),
    "a key of a row that several studies select": (
        "scale: bad\noptimizers: {s: {r: {label: r}}}\nstudies: {a: {kind: functions, optimizers: {from: s}}}\n",
        ": optimizers.s.r.class is missing",
    ),
}


@pytest.mark.parametrize(("text", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named_with_its_place_in_short_lines(text: str | bytes, fault: str, tiny_file: Path) -> None:
    path = tiny_file.with_name("bad.yaml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    lines = str(caught.value).splitlines()
    assert any(fault in line for line in lines), lines
    assert all(str(tiny_file.parent) in line for line in lines)
    assert max(map(len, lines)) <= 290


@pytest.mark.parametrize("way", ["one.yaml", "../{folder}/one.yaml"])
def test_extends_in_a_circle_is_one_line_that_shows_the_way(way: str, tiny_file: Path) -> None:
    one, two = (tiny_file.with_name(f"{name}.yaml") for name in ("one", "two"))
    one.write_text("extends: two.yaml\n")
    two.write_text(f"extends: [tiny.yaml, {way.format(folder=tiny_file.parent.name)}]\n")
    with pytest.raises(ConfigError, match="extends leads in a circle") as caught:
        config.load(one)
    assert str(caught.value).startswith(f"{two}: ")
    assert "\n" not in str(caught.value)


def test_a_file_may_be_extended_on_two_ways(tiny_file: Path) -> None:
    for name, extends in (("one", "tiny.yaml"), ("two", "tiny.yaml"), ("both", "[one.yaml, two.yaml]")):
        tiny_file.with_name(f"{name}.yaml").write_text(f"extends: {extends}\nscale: {name}\n")
    assert config.load(tiny_file.with_name("both.yaml")).scale == "both"


def test_an_override_may_name_another_scale_but_not_the_published_one(tiny: Tiny) -> None:
    assert tiny("scale=other").scale == "other"
    with pytest.raises(ConfigError, match="belongs to no scale"):
        tiny("scale=published")


def test_a_merged_mapping_may_change_what_it_merges(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\nd: *b\n"
    assert config.parse(text, "here")["d"] == {"x": 2, "y": 1}


def test_an_override_wins_over_the_file(tiny: Tiny) -> None:
    assert tiny().studies["boxes"].budget == 12
    assert tiny("studies.boxes.budget=20").studies["boxes"].budget == 20


def test_a_later_override_wins_over_an_earlier_one(tiny: Tiny) -> None:
    assert tiny("seed=1", "seed=2").seed == 2


def test_an_override_reaches_into_the_settings_of_an_optimizer(tiny: Tiny) -> None:
    study = tiny("studies.images.optimizers.gap.settings.momentum=[0.5, 0.9]").studies["images"]
    assert study.optimizers["gap"].settings == {"score": "raw", "momentum": [0.5, 0.9]}


def test_an_override_may_add_an_optimizer(tiny: Tiny) -> None:
    study = tiny("studies.images.optimizers.adam={label: Adam, class: torch.optim.Adam}").studies["images"]
    assert study.optimizers["adam"].class_ == "torch.optim.Adam"


def test_null_removes_an_optimizer(tiny: Tiny) -> None:
    assert list(tiny("studies.images.optimizers.random=null").studies["images"].optimizers) == ["sgd", "gap"]


def test_null_removes_a_study(tiny: Tiny) -> None:
    assert list(tiny("studies.boxes=null").studies) == ["images", "surfaces"]


def test_null_elsewhere_is_a_value(tiny: Tiny) -> None:
    assert tiny("studies.images.train_examples=null").studies["images"].train_examples is None


def test_a_comparison_needs_an_optimizer(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"studies\.boxes\.optimizers"):
        tiny("studies.boxes.optimizers.sgd=null")


def test_a_key_set_to_null_in_one_layer_may_be_set_in_the_next(tiny: Tiny) -> None:
    again = "studies.images.optimizers.random={label: again, class: torch.optim.SGD}"
    assert tiny("studies.images.optimizers.random=null", again).studies["images"].optimizers["random"].label == "again"


@pytest.mark.parametrize("text", ["1e-8", "1E-8", "1.0e-8", "1.e-8", "+1e-08", "10e-9", ".1e-7"])
def test_a_number_with_an_exponent_is_a_number_however_it_is_written(text: str, tiny: Tiny) -> None:
    settings = tiny(f"studies.images.optimizers.sgd.settings.eps={text}").studies["images"].optimizers["sgd"].settings
    assert settings["eps"] == 1e-8


@pytest.mark.parametrize("text", ["1e", "e8", "1e8x", "e-8", "1.2.3e4"])
def test_a_word_that_resembles_a_number_stays_a_word(text: str) -> None:
    assert config.parse(text, "here") == text


def test_an_integer_stays_an_integer() -> None:
    assert isinstance(config.parse("12", "here"), int)


def test_settings_of_the_study_hold_for_every_optimizer_and_its_own_win(tiny: Tiny) -> None:
    study = tiny("studies.images.settings={momentum: 0.5, weight_decay: 0.1}").studies["images"]
    assert isinstance(study, TrainingStudy)
    assert study.entry("sgd").settings == {"momentum": 0.9, "weight_decay": 0.1}
    assert study.entry("gap").settings == {"momentum": 0.5, "weight_decay": 0.1, "score": "raw"}


def test_the_grid_of_an_optimizer_is_its_own_or_the_studys_in_ascending_order(tiny: Tiny) -> None:
    study = tiny("studies.images.optimizers.sgd.learning_rates=[3, 1]").studies["images"]
    assert isinstance(study, TrainingStudy)
    assert study.grid("sgd") == (1, 3)
    assert study.grid("gap") == (0.01, 0.1)


# Meta-training and transfer

POP_ERRORS = {
    "shares that are no distribution": (
        "studies.meta.prior.shares.gp=0.4",
        "studies.meta.prior: shares = {'convex': 0.5, 'gp': 0.4} must sum to 1, not to 0.9",
    ),
    "a share of an unknown kind": ("studies.meta.prior.shares.cubic=0.0", "studies.meta.prior.shares.cubic"),
    "a range in the wrong order": (
        "studies.meta.prior.length_scale=[1.0, 0.1]",
        "studies.meta.prior.length_scale: [1.0, 0.1] must be the smaller number first",
    ),
    "a range that is no range": (
        "studies.meta.prior.amplitude=[0.1, 0.2, 0.3]",
        "studies.meta.prior.amplitude = [0.1, 0.2, 0.3] is not allowed. Tuple should have at most 2 items",
    ),
    "heads that do not divide the width": (
        "studies.meta.network.heads=3",
        "studies.meta.network: width = 8 is not a multiple of heads = 3",
    ),
    "bounds of the rate in the wrong order": (
        "studies.meta.network.smallest=2.0",
        "studies.meta.network: smallest = 2.0 is not below largest = 1.0",
    ),
    "minibatches that would be empty": (
        "studies.meta.ppo.minibatches=9",
        "studies.meta.ppo: functions[2] = 8 is not allowed; it must be at least minibatches = 9",
    ),
    "a misspelt key of PPO": (
        "studies.meta.ppo.epoch=2",
        "studies.meta.ppo.epoch is not a key of the config; did you mean epochs?",
    ),
    "a bad value in a row of policies": (
        "studies.meta.policies.log.ppo.discount=2.0",
        "studies.meta: policies.log.ppo = {'improvement': 0.0, 'log_regret': 0.2, 'discount': 2.0} is not allowed: "
        "discount: Input should be less than or equal to 1",
    ),
    "a misspelt key in a row of policies": (
        "studies.meta.policies.log.network={hist: 4}",
        "studies.meta: policies.log.network = {'hist': 4} is not allowed: hist: There is no such key",
    ),
    "a row of policies that does not fit together": (
        "studies.meta.policies.log.prior={shares: {gp: 0.5}}",
        "studies.meta: policies.log.prior = {'shares': {'gp': 0.5}} is not allowed: shares = {'gp': 0.5} must sum to 1",
    ),
    "an unknown source": (
        "studies.transfer.collections.vlse.source=coco",
        "studies.transfer.collections.vlse.source = 'coco' is not allowed. Input should be 'prior', 'vlse',",
    ),
    "a schedule where rates stay constant": (
        "studies.transfer.optimizers.adam.schedule=step",
        "studies.transfer: optimizers.adam.schedule = 'step' is not allowed: only studies that train networks",
    ),
    "a reference named like an optimizer": (
        "studies.transfer.references.adam={label: x, method: tpe}",
        "studies.transfer: references.adam is not allowed: an optimizer has the same name",
    ),
    "unequal tuning budgets": (
        "studies.transfer.optimizers.lbfgs.learning_rates=[0.1]",
        "studies.transfer: optimizers.lbfgs.learning_rates has 1 values and the study's grid has 3",
    ),
    "weights of an unknown row": (
        "studies.transfer.optimizers.trained.trained=meta/standart",
        "the config: studies.transfer.optimizers.trained.trained = 'meta/standart' is not one of "
        "['meta/log', 'meta/standard']",
    ),
    "weights that are no study and row": (
        "studies.transfer.optimizers.trained.trained=meta",
        "studies.transfer.optimizers.trained.trained = 'meta' is not allowed. It must be a ",
    ),
    "weights for a row that is tuned": (
        "studies.transfer.optimizers.adam.trained=meta/log",
        "the config: studies.transfer.optimizers.adam.trained = 'meta/log' is not allowed: only rows of the group",
    ),
}


@pytest.mark.parametrize(("override", "message"), POP_ERRORS.values(), ids=POP_ERRORS)
def test_an_error_of_meta_training_or_transfer_is_one_line_too(override: str, message: str, tiny_pop: Tiny) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_pop("seed=8", override)
    assert str(caught.value).startswith(f"override {override}: {message}")
    assert "\n" not in str(caught.value)


def test_a_row_of_policies_states_only_what_differs(tiny_pop: Tiny) -> None:
    study = tiny_pop("studies.meta.policies.log.prior={shares: {gp: 1.0}}").studies["meta"]
    assert isinstance(study, PolicyStudy)
    prior, network, ppo = study.entry("log")
    assert prior.shares == {"gp": 1.0}
    assert prior.model_copy(update={"shares": study.prior.shares}) == study.prior
    assert network == study.network
    assert ppo == study.ppo.model_copy(update={"improvement": 0.0, "log_regret": 0.2})
    assert study.entry("standard") == (study.prior, study.network, study.ppo)


def test_null_removes_a_policy_a_collection_or_a_reference(tiny_pop: Tiny) -> None:
    removed = ("meta.policies.log", "transfer.collections.vlse", "transfer.references.random")
    settings = tiny_pop(*(f"studies.{path}=null" for path in removed)).studies
    assert list(settings["meta"].policies) == ["standard"]
    assert list(settings["transfer"].collections) == ["prior-test", "prior-3d", "shift-noise"]
    assert list(settings["transfer"].references) == ["cma-es"]


def test_functions_of_another_dimension_are_added_to_those_of_an_iteration(tiny_pop: Tiny) -> None:
    assert tiny_pop("studies.meta.ppo.functions.5=4").studies["meta"].ppo.functions == {2: 8, 5: 4}
    assert tiny_pop("studies.meta.ppo.functions.2=6").studies["meta"].ppo.functions == {2: 6}


# Fine-tuning, shifts and diagnostics

GAP_ERRORS = {
    "a backbone of an unknown row": (
        "studies.language.backbone=pretraining/gtp",
        "the config: studies.language.backbone = 'pretraining/gtp' is not one of ['pretraining/gpt']",
    ),
    "a backbone of the other modality": (
        "studies.language.backbone=pretraining/vit",
        "the config: studies.language.backbone = 'pretraining/vit' is not one of ['pretraining/gpt']",
    ),
    "a backbone and a model of the hub": (
        "studies.language.hub=owner/model",
        "studies.language: exactly one of backbone = 'pretraining/gpt' and hub = 'owner/model' must be set",
    ),
    "a revision that is a branch": (
        "studies.language.revision=main",
        "studies.language.revision: 'main' is not a commit of the hub, which has 40 hexadecimal digits",
    ),
    "a revision without a model of the hub": (
        f"studies.language.revision={'0a' * 20}",
        f"studies.language: revision = '{'0a' * 20}' is not allowed without hub",
    ),
    "neither of both": (
        "studies.language.backbone=null",
        "studies.language: exactly one of backbone = None and hub = None must be set",
    ),
    "a bad value in a task": (
        "studies.language.task.context=1",
        "studies.language.task.context = 1 is not allowed. Input should be greater than or equal to 2",
    ),
    "a misspelt key in a task": (
        "studies.vision.task.lables=coarse",
        "studies.vision.task.lables is not a key of the config; did you mean labels?",
    ),
    "an unknown modality": (
        "studies.vision.task.modality=sound",
        "studies.vision.task.modality = 'sound' is not allowed. Input tag 'sound' found using 'modality'",
    ),
    "more questions than there are": (
        "studies.language.task.exact_match=9",
        "studies.language: task.exact_match = 9 must be at most test_examples",
    ),
    "questions without a number to match": (
        "studies.language.task={corpus: [gsm8k, hellaswag], exact_match: 2}",
        "studies.language: task.exact_match = 2 is not allowed with the corpus hellaswag: only the answers of gsm8k",
    ),
    "heads that do not divide the width": (
        "studies.pretraining.backbones.gpt.architecture.heads=3",
        "studies.pretraining.backbones.gpt.architecture: width = 8 must be a multiple of heads = 3",
    ),
    "patches of text": (
        "studies.pretraining.backbones.gpt.architecture.patch=2",
        "studies.pretraining.backbones.gpt: architecture.patch = 2 is not allowed: a task of the modality language has",
    ),
    "images without patches": (
        "studies.pretraining.backbones.vit.architecture.patch=null",
        "studies.pretraining.backbones.vit: architecture.patch = None is not allowed: a task of the modality vision",
    ),
    "a batch that loses its halves": (
        "studies.shift={shift: batch_size, shifted_to: 3}",
        "studies.shift: shifted_to = 3.0 is not allowed: a batch size is an even number of at least 2",
    ),
    "no noise": (
        "studies.shift.shift=label_noise",
        "studies.shift: shifted_to = 0.0 is not allowed: a share of random labels is in (0, 1]",
    ),
    "a shift between two points of the curve": (
        "studies.shift.evaluations=3",
        "studies.shift: steps = 12 and evaluations = 3 must be even, so that the curve has a point at the shift",
    ),
    "a workload of no training": (
        "studies.diagnostics.workloads.gpt.study=pretraining",
        "the config: studies.diagnostics.workloads.gpt.study = 'pretraining' is not one of ['language', 'shift',",
    ),
    "a workload that follows no row": (
        "studies.diagnostics.workloads.gpt.follow=adam",
        "the config: studies.diagnostics.workloads.gpt: 'adam' is not one of ['adamw', 'gap']",
    ),
}


@pytest.mark.parametrize(("override", "message"), GAP_ERRORS.values(), ids=GAP_ERRORS)
def test_an_error_of_fine_tuning_a_shift_or_diagnostics_is_one_line_too(
    override: str, message: str, tiny_gap: Tiny
) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_gap("seed=8", override)
    assert str(caught.value).startswith(f"override {override}: {message}")
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_needs_a_revision(tiny_gap: Tiny) -> None:
    hub = ["studies.language.backbone=null", "studies.language.hub=owner/model"]
    with pytest.raises(
        ConfigError, match=r"revision = None is not allowed with hub = 'owner/model': it must be a commit"
    ):
        tiny_gap(*hub)
    commit = "0a" * 20
    assert tiny_gap(*hub, f"studies.language.revision={commit}").studies["language"].revision == commit


def test_a_row_that_a_scale_adds_to_a_fine_tuning_stands_with_those_of_its_group(tiny_gap: Tiny) -> None:
    assert list(tiny_gap().studies["language"].optimizers) == ["adamw", "gap"]
    settings = tiny_gap("studies.language.optimizers.sgd={label: SGD, group: fixed, class: torch.optim.SGD}")
    assert list(settings.studies["language"].optimizers) == ["adamw", "sgd", "gap"]


def test_null_removes_a_backbone_or_a_workload(tiny_gap: Tiny) -> None:
    removed = ("diagnostics.workloads.gpt", "language", "pretraining.backbones.gpt")
    settings = tiny_gap(*(f"studies.{path}=null" for path in removed)).studies
    assert list(settings["pretraining"].backbones) == ["vit"]
    assert list(settings["diagnostics"].workloads) == ["softmax"]


# Learning step rules, and comparing them

LTO_ERRORS = {
    "a bad value in a row of learners": (
        "studies.learn.learners.longer.unrolled.unroll=0",
        "studies.learn: learners.longer.unrolled = {'unroll': 0} is not allowed: unroll: Input should be greater than",
    ),
    "a misspelt key in a row of learners": (
        "studies.learn.learners.mirror.policy={cell: 4}",
        "studies.learn: learners.mirror.policy = {'cell': 4} is not allowed: cell: There is no such key",
    ),
    "an unknown method": (
        "studies.learn.learners.mirror.method=reinforce",
        "studies.learn.learners.mirror.method = 'reinforce' is not allowed. Input should be 'imitation', 'mirror',",
    ),
    "a start that comes later": (
        "studies.learn.learners.unrolled.start=longer",
        "studies.learn: learners.unrolled.start = 'longer' is not one of the earlier rows []",
    ),
    "a start with a rule of another kind": (
        "studies.learn.learners.mirror.start=unrolled",
        "studies.learn: learners.mirror.start = 'unrolled' is not one of the earlier rows ['imitation']",
    ),
    "a start with a policy of another form": (
        "studies.learn.learners.mirror.policy={cells: 5}",
        "studies.learn: learners.mirror.start = 'imitation' is not allowed: its policy or l2l differs",
    ),
    "an objective without images": (
        "studies.compare.panels.new={inputs: 6, hidden: 4, batch_size: 8, steps: 8}",
        "studies.compare.panels.new.dataset is missing",
    ),
    "a panel with the name of the tuning": (
        "studies.compare.panels.tuning={dataset: [digits], inputs: 6, hidden: 4, batch_size: 8, steps: 8}",
        "studies.compare: panels.tuning is not allowed: this name is reserved for the tuning objective",
    ),
    "a curve of one point": (
        "studies.compare.evaluations=1",
        "studies.compare.evaluations = 1 is not allowed. Input should be greater than or equal to 2",
    ),
    "a schedule where rates stay constant": (
        "studies.compare.optimizers.adam.schedule=step",
        "studies.compare: optimizers.adam.schedule = 'step' is not allowed: only studies that train networks",
    ),
    "weights of an unknown row": (
        "studies.compare.optimizers.learned.trained=learn/unrold",
        "the config: studies.compare.optimizers.learned.trained = 'learn/unrold' is not one of "
        "['learn/bregman', 'learn/imitation', 'learn/longer', 'learn/mirror', 'learn/unrolled']",
    ),
    "weights for a row that is tuned": (
        "studies.compare.optimizers.adam.trained=learn/unrolled",
        "the config: studies.compare.optimizers.adam.trained = 'learn/unrolled' is not allowed: only rows of",
    ),
}


@pytest.mark.parametrize(("override", "message"), LTO_ERRORS.values(), ids=LTO_ERRORS)
def test_an_error_of_learning_or_comparing_step_rules_is_one_line_too(
    override: str, message: str, tiny_lto: Tiny
) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_lto("seed=8", override)
    assert str(caught.value).startswith(f"override {override}: {message}")
    assert "\n" not in str(caught.value)


def test_weights_of_a_policy_are_none_of_a_step_rule(tiny_lto: Tiny, tiny_pop: Tiny) -> None:
    both = {**tiny_lto().studies, **tiny_pop().studies}
    Config(scale="both", seed=7, studies=both)
    study = both["compare"]
    assert isinstance(study, ObjectivesStudy)
    row = study.optimizers["learned"].model_copy(update={"trained": "meta/standard"})
    crossed = study.model_copy(update={"optimizers": {"learned": row}})
    with pytest.raises(ValidationError, match=r"'meta/standard' is not one of \['learn/bregman', "):
        Config(scale="both", seed=7, studies={**both, "compare": crossed})


def test_a_row_of_learners_states_only_what_differs(tiny_lto: Tiny) -> None:
    study = tiny_lto("studies.learn.learners.mirror.objective={steps: 4}").studies["learn"]
    assert isinstance(study, LearnerStudy)
    assert study.recipe("longer").unrolled == study.unrolled.model_copy(update={"unroll": 8})
    assert study.recipe("longer").objective == study.objective
    assert study.recipe("mirror").objective == study.objective.model_copy(update={"steps": 4})
    assert study.recipe("mirror").policy == study.policy


def test_null_removes_a_learner_or_a_panel(tiny_lto: Tiny) -> None:
    settings = tiny_lto("studies.learn.learners.bregman=null", "studies.compare.panels.wide=null").studies
    assert list(settings["learn"].learners) == ["unrolled", "longer", "imitation", "mirror"]
    assert list(settings["compare"].panels) == ["small"]


def test_a_panel_may_be_changed_by_a_smaller_scale(tiny_lto: Tiny) -> None:
    study = tiny_lto("studies.compare.panels.wide={steps: 3, dataset: [digits]}").studies["compare"]
    assert isinstance(study, ObjectivesStudy)
    assert study.panels["wide"] == Panel(dataset=("digits",), inputs=8, hidden=12, batch_size=4, steps=3)
    assert list(study.workloads) == ["tuning", "small", "wide"]


TWINS = {  # the optimizers' own settings are dataclasses, because that package is imported without pydantic
    "policy": (StepPolicyConfig, predicted_step.StepPolicySettings),
    "l2l": (L2LConfig, l2l.L2LSettings),
    "network": (NetworkConfig, _pop_policy.PolicySettings),
}


@pytest.mark.parametrize(("model", "settings"), TWINS.values(), ids=TWINS)
def test_the_config_has_the_fields_and_defaults_of_the_settings_that_are_made_from_it(
    model: type[Model], settings: type
) -> None:
    keys = {name: None if field.is_required() else field.default for name, field in model.model_fields.items()}
    fields = {f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(settings)}
    assert keys == fields
