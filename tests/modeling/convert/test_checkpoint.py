"""A checkpoint is a stranger's pickle: old ones are read as plain data, and nothing in one is run."""

import os
import sys
import types
from argparse import Namespace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForPreTraining

from data2vec.modeling.convert.check import differences
from data2vec.modeling.convert.checkpoint import read_checkpoint
from data2vec.modeling.convert.pickles import NAMES, StandIn, read_pickle
from data2vec.tests.modeling.fairseq_cases import checkpoint_of, converted, io_of, refusal


# What old files hold beside tensors


def test_configuration_in_a_namespace(tmp_path):
    content = checkpoint_of("v1_audio_a")
    cfg = content.pop("cfg")
    model = {name: value for name, value in cfg["model"].items() if name != "_name"}
    content["args"] = Namespace(arch="data2vec_audio", **model | {"task": "audio_pretraining", "normalize": True})
    model = AutoModelForPreTraining.from_pretrained(converted(content, tmp_path))
    assert max(differences(model.eval(), io_of("v1_audio_a")).values()) < 1e-5


class Modality(Enum):
    AUDIO = 1
    IMAGE = 2
    TEXT = 3


class DictConfig:
    def __init__(self, content: dict, metadata: Any):
        self._metadata, self._parent, self._content = metadata, None, content


class ListConfig(DictConfig):
    pass


class AnyNode:
    def __init__(self, value: Any, metadata: Any):
        self._metadata, self._parent, self._val = metadata, None, value


class ContainerMetadata:
    def __init__(self, object_type: type):
        self.ref_type, self.object_type, self.optional, self.key, self.flags = Any, object_type, True, None, None
        self.element_type, self.key_type, self.flags_root = Any, Any, False


class FairseqConfig:
    pass


HOMES = {
    Modality: "examples.data2vec.data.modality",
    DictConfig: "omegaconf.dictconfig",
    ListConfig: "omegaconf.listconfig",
    AnyNode: "omegaconf.nodes",
    ContainerMetadata: "omegaconf.base",
    FairseqConfig: "fairseq.dataclass.configs",
}


@pytest.fixture
def old_modules(monkeypatch):
    """Classes that pickle as those of OmegaConf and fairseq; call it to take them away again."""
    names = set()
    for member, home in HOMES.items():
        monkeypatch.setattr(member, "__module__", home)
        parts = home.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            names.add(name)
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setattr(sys.modules[home], member.__name__, member, raising=False)

    def remove():
        for name in names:
            monkeypatch.delitem(sys.modules, name)

    return remove


def as_omegaconf(value: Any) -> Any:
    metadata = ContainerMetadata(FairseqConfig)
    if isinstance(value, dict):
        return DictConfig({name: as_omegaconf(entry) for name, entry in value.items()}, metadata)
    if isinstance(value, list):
        return ListConfig([as_omegaconf(entry) for entry in value], metadata)
    return AnyNode(value, metadata)


def test_configuration_in_omegaconf_containers(tmp_path, old_modules):
    content = checkpoint_of("v2_audio_a")
    cfg = content["cfg"]
    cfg["optimization"]["max_update"] = 20
    cfg["model"]["ema_anneal_end_step"] = "${optimization.max_update}"  # as a node that was not resolved
    cfg["model"]["modalities"]["audio"]["num_alibi_heads"] = "${model.num_heads}"
    cfg["model"]["supported_modality"] = cfg["model"]["modalities"]["audio"]["type"] = Modality.AUDIO
    content["cfg"] = as_omegaconf(cfg)
    torch.save(content, tmp_path / "checkpoint.pt")
    old_modules()
    read = read_checkpoint(tmp_path / "checkpoint.pt")
    assert read.cfg["model"]["supported_modality"] == "AUDIO" and read.cfg["optimization"]["lr"] == [0.002]
    assert read.cfg["model"]["modalities"]["audio"]["num_alibi_heads"] == 4
    assert "omegaconf" not in sys.modules and "fairseq" not in sys.modules

    from data2vec.modeling.convert.command import convert

    convert(tmp_path / "checkpoint.pt", tmp_path / "out")
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert model.objective.ema_anneal_steps == 20
    assert max(differences(model.eval(), io_of("v2_audio_a")).values()) < 1e-5


def test_half_precision_becomes_full(tmp_path):
    content = checkpoint_of("v2_text_a")
    content["model"] = {n: t.half() if isinstance(t, torch.Tensor) else t for n, t in content["model"].items()}
    model = AutoModelForPreTraining.from_pretrained(converted(content, tmp_path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    golden = content["model"]["blocks.0.attn.qkv.weight"]
    assert torch.equal(model.data2vec2.encoder.layers[0].attention.qkv.weight.half(), golden)


# What is refused


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def attacks(marker: Path) -> dict[str, Any]:
    return {
        "system": Call(os.system, f"touch {marker}"),
        "exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "path": Call(Path.touch, marker),
        "getattr": Call(getattr, Namespace(a=1), "a"),
    }


@pytest.mark.parametrize("attack", ["system", "exec", "path", "getattr"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["extra_state", "cfg"])
def test_nothing_in_a_pickle_is_run(attack, zipped, place, tmp_path, capsys):
    marker = tmp_path / "ran"
    content = checkpoint_of("v2_text_a")
    content[place] = {"model": attacks(marker)[attack]}
    source = tmp_path / "checkpoint.pt"
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    line = refusal(source, tmp_path, capsys)
    names = {"path": "getattr"}  # how a method is pickled
    assert names.get(attack, attack) in line and "nothing of it was run" in line
    assert not marker.exists()
    # it would have been
    if attack in ("system", "exec"):
        torch.load(source, weights_only=False)
        assert marker.exists()


def test_names_become_stand_ins_that_do_nothing(tmp_path):
    torch.save({"a": Call(list, (1, 2)), "b": Call(torch.device, "cpu"), "c": Namespace(x=1)}, tmp_path / "a.pt")
    found = read_pickle(tmp_path / "a.pt")
    assert {type(value) for value in found.values()} == {StandIn}
    assert found["a"].args == ((1, 2),) and found["c"].plain() == {"x": 1} and found["b"].plain() is None
    for name in ("os.system", "fairseq.os.system", "data2vec.system", "subprocess.runConfig", "builtins.getattr"):
        assert not NAMES.fullmatch(name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_truncated_file(zipped, share, tmp_path, capsys):
    source = tmp_path / "checkpoint.pt"
    torch.save(checkpoint_of("v1_text_c"), source, _use_new_zipfile_serialization=zipped)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in refusal(source, tmp_path, capsys)


def test_old_format_is_read(tmp_path):
    source = tmp_path / "checkpoint.pt"
    torch.save(checkpoint_of("v1_text_a"), source, _use_new_zipfile_serialization=False)
    assert read_checkpoint(source).num_updates == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}}, "no entry 'model'"),
        ({"model": {"w": torch.zeros(2)}}, "neither 'cfg' nor 'args'"),
        ({"model": {"w": "text"}, "cfg": {"model": {"_name": "data2vec_text"}}}, "not a tensor"),
        ({"model": {"w": torch.zeros(2)}, "cfg": {"task": {}}}, "no section 'model'"),
    ],
)
def test_other_files(content, words, tmp_path, capsys):
    assert words in refusal(content, tmp_path, capsys)


def test_no_file(tmp_path, capsys):
    assert "is not a file" in refusal(tmp_path / "missing.pt", tmp_path, capsys)
