"""The step benchmark from the command line, at a size that takes seconds. Nothing is said about how fast it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from step import start
from systems import parse_arm


@pytest.mark.slow
def test_two_arms_take_steps_in_turn(tmp_path: Path, script: Any) -> None:
    written = tmp_path / "numbers.json"
    arms = ["baseline", "data2vec training.max_grad_norm=0.5 MALLOC_ARENA_MAX=1"]
    words = ["--size", "tiny", "--rounds", "2", "--warmup", "1", "--json", str(written), "--arms", *arms]
    ended = script("step.py", "--system", "audio_v1", "--precision", "bf16", *words)
    assert ended.returncode == 0, ended.stderr
    numbers = json.loads(written.read_text())
    [result] = numbers["results"]
    assert [arm["arm"] for arm in result["arms"]] == arms
    for arm in result["arms"]:
        assert len(arm["every"]) == 2
        assert arm["seconds"] > 0 and arm["peak_bytes"] > 1e8 and arm["threads"] == 1
        assert {"data", "forward", "backward", "clip", "optimizer", "rest"} <= set(arm["stages"])
        for whole in arm["every"]:
            assert sum(arm["stages"].values()) < 3 * whole + 1  # medians of parts of it
    assert {"teacher", "ema"} <= set(result["arms"][1]["stages"])
    assert result["arms"][0]["trained"] == result["arms"][1]["trained"]  # the same model is trained
    assert numbers["machine"]["gemm"]["bf16"] > 0 and result["flops"] > 0
    assert "of GEMM peak" in ended.stdout and "baseline / it" in ended.stdout


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("plain", "use baseline, data2vec or fairseq"),
        ("data2vec max_steps", "is not FIELD=VALUE"),
        ("fairseq", "needs --fairseq"),
    ],
)
def test_an_arm_that_is_none_is_refused(arm: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        start(arm, {}, "unused", fairseq=None)


def test_an_arm_is_a_kind_with_fields_and_variables() -> None:
    kind, fields, environment = parse_arm("data2vec training.optim=adamw_torch OMP_NUM_THREADS=2")
    assert (kind, fields, environment) == ("data2vec", {"training.optim": "adamw_torch"}, {"OMP_NUM_THREADS": "2"})
