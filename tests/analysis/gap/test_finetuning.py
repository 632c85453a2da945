import pytest

from optrepro.analysis import comparison
from optrepro.analysis.gap import finetuning


def test_means_and_spreads_are_those_of_the_final_scores_and_the_best_is_marked(training_study):
    study = training_study()
    table = finetuning.methods(study)
    loss, accuracy = (comparison.final(study, name) for name in ("test_loss", "test_accuracy"))
    of = table.set_index(["measure", "optimizer"])
    for key in accuracy:
        assert of.loc[("test_accuracy", key), "mean"] == pytest.approx(accuracy[key].mean())
        assert of.loc[("test_accuracy", key), "std"] == pytest.approx(accuracy[key].std())
    best = table[table.best].groupby("measure").optimizer.first()
    assert accuracy.mean()[best.test_accuracy] == accuracy.mean().max()
    assert loss.mean()[best.test_loss] == loss.mean().min()
