"""The verdict on a run, from logs whose health is known."""

import pytest

from data2vec.model_cards.report.verdict import verdict


HEALTHY = {"loss": 2.0, "target_std": 0.9, "prediction_std": 0.5, "position_std": 0.7, "effective_rank": 40.0}
HEALTHY |= {"prediction_rank": 20.0, "embedding_share": 0.9}
START = {"loss": 4.0, "target_std": 0.8, "prediction_std": 0.1, "position_std": 0.6, "effective_rank": 44.0}
START |= {"prediction_rank": 30.0, "embedding_share": 0.9}


def of(last, **health):
    log = [{"step": 10, **START}, {"step": 20, **HEALTHY, **last}, {"step": 20, "train_runtime": 3.0}]
    return verdict(log, health or None)


def test_a_healthy_run():
    found = of({})
    assert found.state == "healthy" and found.remedies == []
    assert "loss 4 → 2" in found.sentences[-1] and "From step 10 to 20" in found.sentences[-1]


@pytest.mark.parametrize(
    ("last", "word"),
    [
        ({"target_std": 0.04, "position_std": 0.03}, "target_std = 0.0400 is below 0.1"),
        ({"position_std": 0.05}, "position_std / target_std = 0.0556 is below 0.1"),
    ],
)
def test_a_collapse_names_its_number_and_the_remedies(last, word):
    found = of(last)
    assert found.state == "collapsed" and word in found.sentences[0]
    assert found.remedies[0].startswith("a lower learning_rate") and len(found.remedies) == 4


@pytest.mark.parametrize(
    ("last", "word"),
    [
        ({"effective_rank": 15.0}, "effective rank of targets fell from 44 to 15. The targets use ever fewer"),
        ({"embedding_share": 0.01}, "share of the embeddings that varies fell from 0.9 to 0.01. The local encoder"),
        ({"prediction_std": 0.05}, "still predicts nearly the mean"),
        ({"prediction_std": 0.005}, "prediction_std = 0.0050 is below 0.01"),
        ({"loss": 4.5}, "The loss did not fall"),
    ],
)
def test_what_deserves_a_look_is_no_collapse(last, word):
    found = of(last)
    assert found.state == "watch" and any(word in sentence for sentence in found.sentences)
    assert found.remedies


def test_a_run_that_was_stopped_is_believed():
    message = "The representation has collapsed: at step 15 target_std = 0.0 is below 0.1.\nThe usual remedies"
    found = of({}, state="collapsed", message=message)
    assert found.state == "collapsed" and message.split("\n")[0] in found.sentences
    assert of({}, state="diverged", message="the loss was nan").state == "diverged"
    assert "still running" in " ".join(of({}, state="running", message=None).sentences)


def test_nothing_logged_is_not_healthy():
    assert verdict([]).state == "unknown"
    assert verdict([{"step": 3, "train_runtime": 2.0}], {"state": "finished"}).state == "unknown"
