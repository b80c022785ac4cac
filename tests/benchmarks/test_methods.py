"""benchmarks/methods.py: its count of operations against the formulas, and that every method takes a step."""

import pytest
from flops import step, total
from methods import METHODS, operations, time_steps

from tests.benchmarks.test_flops import tiny


def test_operations_are_those_of_the_formulas() -> None:
    model, batch, shape = tiny("text_v1")
    assert operations(model, batch) == total(step(model.config, model.objective, shape))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_step(method: str) -> None:
    found = time_steps(method, rounds=1, clock="processor", tiny=True)
    assert found["gflop"] > 0 and found["seconds"] > 0 and 0 < found["of_gemm"] < found["of_floor"]
