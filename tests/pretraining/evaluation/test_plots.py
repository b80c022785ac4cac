"""Curves of a log: what is drawn is what was logged."""

import math
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pytest
from matplotlib.figure import Figure
from PIL import Image

from data2vec.model_cards.report.figures import svg_of
from data2vec.pretraining.evaluation.panels import PANELS
from data2vec.pretraining.evaluation.plots import INK, draw_curves, draw_layers, draw_panels, png_of
from data2vec.pretraining.evaluation.probe_metrics import METRICS


LOG = [
    {"step": 0, "probe/knn_student": 0.41, "probe/knn_teacher": 0.37},
    {"step": 7, "loss": 3.1, "target_std": 0.9, "prediction_std": 0.1, "position_std": 0.7, "ema_decay": 0.99},
    {"step": 14, "loss": math.nan, "target_std": 0.8, "prediction_std": 0.3, "position_std": 0.6, "ema_decay": 0.99},
    {"step": 21, "loss": 1.7, "target_std": 0.7, "prediction_std": 0.5, "position_std": 0.5, "ema_decay": 0.99},
    {"step": 21, "probe/knn_student": 0.61, "probe/knn_teacher": 0.47},
    {"step": 21, "train_runtime": 12.3, "total_flos": 1e9},
]
OTHER = [{"step": 5, "loss": 2.9, "target_std": 0.4}, {"step": 11, "loss": 2.2, "target_std": 0.5}]


def lines(figure):
    (axes,) = figure.axes
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_what_was_logged_is_drawn_and_nothing_else():
    figures = draw_panels({"run": LOG})
    assert list(figures) == ["loss", "spread", "probe", "ema_decay"]
    assert lines(figures["loss"]) == {"training": ([7, 21], [3.1, 1.7])}, "a loss that is not finite is left out"
    assert set(lines(figures["spread"])) == {"targets", "predictions", "targets, across samples"}
    steps, values = lines(figures["probe"])["k-NN, teacher"]
    assert steps == [0, 21] and values == pytest.approx([37.0, 47.0]), "in %"


def test_terms_of_the_loss_are_drawn_under_their_own_names():
    log = [{"step": step, "loss": 3.0, "loss_regression": 2.0, "loss_of_mine": 1 / step} for step in (1, 2)]
    one = draw_panels({"run": log})
    assert list(one) == ["loss", "terms"]
    assert lines(one["terms"]) == {"of_mine": ([1, 2], [1.0, 0.5]), "regression": ([1, 2], [2.0, 2.0])}
    both = draw_panels({"run": log, "other": [{"step": 1, "loss_regression": 2.5}]})
    assert list(both) == ["loss", "terms.loss_of_mine", "terms.loss_regression"]
    assert both["terms.loss_regression"].axes[0].get_title(loc="left") == "Term: regression"


def test_two_runs_share_a_figure_of_each_quantity():
    figures = draw_panels({"one": LOG, "other": OTHER})
    assert lines(figures["loss"]) == {"one": ([7, 21], [3.1, 1.7]), "other": ([5, 11], [2.9, 2.2])}
    assert lines(figures["spread.target_std"])["other"] == ([5, 11], [0.4, 0.5])
    assert set(lines(figures["spread.prediction_std"])) == {"one"}
    solid, dashed = figures["loss"].axes[0].get_lines()
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--"), "told apart without colours too"
    assert solid.get_color() != dashed.get_color()


def test_axes_do_not_exaggerate():
    axes = {key: figure.axes[0] for key, figure in draw_panels({"run": LOG}).items()}
    assert axes["loss"].get_ylim()[0] == 0 and axes["spread"].get_ylim()[0] == 0
    low, high = axes["ema_decay"].get_ylim()
    assert low < 0.985 and 0.99 < high <= 1.0, "a constant is drawn flat, and no decay is above 1"


@pytest.mark.parametrize(
    ("metric", "scores", "drawn", "bottom", "top"),
    [
        ("accuracy", [0.25, 1.0], [25, 100], (10, 25), (100, 101)),
        ("r2", [-0.2, 1.0], [-0.2, 1.0], (-0.3, -0.2), (1.0, 1.01)),
        ("r2", [0.1, -900.0], [0.1, -900.0], (-0.5, -0.5), (0.1, 1.01)),  # one bad layer does not flatten the others
        ("r2", [-3.0, -4.0], [-3.0, -4.0], (-0.5, -0.5), (0.01, 0.01)),
    ],
)
def test_layers_are_drawn_in_the_unit_of_their_metric(metric, scores, drawn, bottom, top):
    axes = Figure().add_subplot()
    layers = {f"layer_{number}": {"linear": score} for number, score in enumerate(scores)}
    draw_layers(axes, {"pretrained": layers}, METRICS[metric])
    (line,) = axes.get_lines()
    assert list(line.get_ydata()) == drawn
    assert axes.get_title(loc="left") == {"accuracy": "Accuracy by layer, in %", "r2": "R² by layer"}[metric]
    for (low, high), found in zip((bottom, top), axes.get_ylim(), strict=True):
        assert low <= found <= high


def test_one_sheet_holds_every_panel_of_a_run():
    titles = [axes.get_title(loc="left") for axes in draw_curves(LOG).axes]
    assert titles == [PANELS[key].title for key in ("loss", "spread", "probe", "ema_decay")]
    assert draw_curves([]) is None and draw_curves([{"step": 1, "train_runtime": 2.0}]) is None
    with Image.open(BytesIO(png_of(draw_curves(LOG), dpi=50))) as picture:
        assert picture.format == "PNG" and picture.width > 300


def test_svg_takes_the_colours_of_its_page_and_says_what_it_is():
    figures = draw_panels({"run": LOG})
    text = svg_of(figures["spread"], 'spread, "targets" < & predictions', "spread")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'spread, "targets" < & predictions' and root.get("role") == "img"
    assert INK not in text and "currentColor" in text and "var(--grid)" in text
    assert any("Spread" in (node.text or "") for node in root.iter()), "text stays text"
    assert "http" not in text.replace("http://www.w3.org/", ""), "nothing is asked for"


def test_names_in_two_svgs_of_a_page_differ():
    names = []
    for key, figure in draw_panels({"run": LOG}).items():
        root = ElementTree.fromstring(svg_of(figure, key, key))
        names += [node.get("id") for node in root.iter() if node.get("id")]
    assert names and len(names) == len(set(names))
