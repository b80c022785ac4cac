"""benchmarks/int8.py: that it runs, and that int8 files are smaller. Not how fast."""

import int8
import pytest

from tests.model_cards.export.test_command import needs_onnx


@needs_onnx
@pytest.mark.slow  # the files themselves are tested in ../model_cards/export
def test_every_file_is_timed() -> None:
    found = int8.measure("images, half the width", rounds=2)
    assert list(found) == [int8.PYTORCH, int8.FP32, int8.DYNAMIC, int8.STATIC]
    assert all(row["ms"] > 0 for row in found.values()) and found[int8.FP32]["speed"] == 1
    assert all(found[kind]["bytes"] < 0.6 * found[int8.FP32]["bytes"] for kind in (int8.DYNAMIC, int8.STATIC))


@pytest.mark.parametrize("network", int8.NETWORKS)
def test_every_network_has_a_recipe(network: str) -> None:
    assert int8.asked(network).config.num_hidden_layers in (2, 4, 10, 12)
