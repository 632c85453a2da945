import pytest

from optrepro import catalogue
from optrepro.analysis import judging
from optrepro.analysis import verdict as words
from optrepro.config import ConfigError
from tests.analysis.judge import CONFIG, judge, made

FEW = ("adagrad", "rmsprop", "l2l", "psd", "psd-bregman")


def test_a_missing_study_or_run_is_not_run(training_study):
    claim = made("matches-best-fixed", {"studies": ["gap-sgdm"], "optimizers": ["paper"]})
    assert judging.judge(claim, {}) == ("not run", "gap-sgdm has not been run")
    found = judging.judge(claim, {"gap-sgdm": training_study(missing=("raw/test/0.03/2",))})
    assert found.verdict == "not run"
    assert "1 of " in found.evidence


def test_an_optimizer_that_the_config_leaves_out_is_not_run(training_study):
    found = judge("matches-best-fixed", training_study(), optimizers=["absent"])
    assert found == ("not run", "absent is not among the runs")


def test_an_unknown_rule_is_refused(training_study):
    with pytest.raises(ConfigError, match=r"rule = 'optrepro.analysis.gap.claims.guess' cannot be imported"):
        judge("guess", training_study())


def test_every_claim_of_the_config_gets_a_verdict(
    training_study, families_study, concept_study, transfer_study, policy_study, objectives_study
):
    own = (concept_study(), families_study(), transfer_study(), policy_study({"scaling-none": 1.0}))
    own = (*own, objectives_study(keep=FEW))
    table = judging.verdicts(training_study(), training_study(adam=True), *own, folder=str(CONFIG))
    assert len(table) == len(catalogue.claims(CONFIG))
    assert set(table.verdict) <= set(words.VERDICTS)
    assert (table.evidence.str.len() > 0).all()
    judged = table[table.verdict != "not run"]
    titles = {name: paper.title for name, paper in catalogue.load(CONFIG).papers.items()}
    assert set(judged.paper) == {titles[name] for name in ("gap", "pop", "lto")}
    assert len(judged) >= 13
    assert len(judged[judged.paper == titles["lto"]]) == 5
    assert len(judged[judged.paper == titles["pop"]]) == 4  # all but one: the made-up study has no 16 and 32 dimensions


def test_claims_name_existing_exhibits_and_rules():
    known = catalogue.load(CONFIG).exhibits
    for claim in catalogue.claims(CONFIG):
        assert (claim.exhibit is None) == (claim.rule is None)
        assert claim.exhibit is None or claim.exhibit in known
        assert claim.rule is None or callable(catalogue.named(claim.rule, claim.id))


def test_claim_ids_are_unique():
    ids = [claim.id for claim in catalogue.claims(CONFIG)]
    assert len(ids) == len(set(ids))
