"""Checkpoints made to do harm, or damaged at random: refused in one line, soon and in little memory."""

import copy
import io
import math
import pickle
import random
import time
import tracemalloc
import zipfile
from argparse import Namespace

import pytest
import torch

from data2vec.modeling.convert.command import main
from data2vec.modeling.convert.pickles import MAX_PICKLE, Refused, read_pickle
from data2vec.tests.modeling.fairseq_cases import checkpoint_of, refusal


def refused_soon(content, folder, capsys) -> str:
    """The line of the refusal, which takes less than 10 seconds and, of Python's memory, 50 MB."""
    start = time.process_time()
    tracemalloc.start()
    try:
        line = refusal(content, folder, capsys)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 10
    assert len(line) < 1000 and line.isprintable()
    return line


def archive(description: bytes, folder, compression=zipfile.ZIP_STORED):
    """A file in the layout of torch.save."""
    with zipfile.ZipFile(folder / "checkpoint.pt", "w", compression) as file:
        file.writestr("archive/data.pkl", description)
    return folder / "checkpoint.pt"


# ---- configurations without end ----


def shared() -> list:
    value: list = [0]
    for _ in range(60):
        value = [value, value]
    return value


def circular() -> dict:
    value: dict = {}
    value["again"] = [value]
    return value


TREES = {
    "references in a circle": lambda: {"a": "${model.b}", "b": "${model.a}"},
    "a reference to what holds it": lambda: {"a": {"b": ["${model.a}"]}},
    "references that double": lambda: {f"x{n}": [f"${{x{n + 1}}}"] * 2 for n in range(60)} | {"x60": 1},
    "shared lists": shared,
    "a dict in itself": circular,
}


@pytest.mark.parametrize("tree", TREES)
def test_configuration_without_end(tree, tmp_path, capsys):
    content, value = checkpoint_of("v2_text_a"), TREES[tree]()
    content["cfg"]["model"] |= value if isinstance(value, dict) else {"x": value}
    assert "refers to itself" in refused_soon(content, tmp_path, capsys)


@pytest.mark.parametrize("place", ["args", "optimizer_history"])
def test_other_tree_without_end(place, tmp_path, capsys):
    content = checkpoint_of("v2_text_a")
    content[place] = Namespace(x=shared()) if place == "args" else [circular()]
    assert "refers to itself" in refused_soon(content, tmp_path, capsys)


def test_model_in_itself(tmp_path, capsys):
    content = checkpoint_of("v2_text_a")
    content["model"]["_ema"] = content["model"]
    assert "refers to itself" in refused_soon(content, tmp_path, capsys)


# ---- pickles ----

DEEP = b"]" * 100_000 + b"a" * 99_999
# tuples of twice the same, as a key: its hash takes 2 ** 60 steps
HASH = (
    b"\x80\x02}" + b")q\x00" + b"".join(b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60)) + b"K\x01s"
)
PICKLES = {
    "deep": b"\x80\x02}X\x05\x00\x00\x00model" + DEEP + b"s.",
    "deep configuration": pickle.dumps({"model": {}, "cfg": 0}, 2)[:-3] + b"0" + DEEP + b"u.",
    "hash": HASH + b".",
    "memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "codes": b"\x80\x02" + b"(" * 200_000 + b".",
    "empty": b"",
    "a number": b"\x80\x02K\x01.",
    "a set of tuples": pickle.dumps({"model": {(1, (2,))}}, 4),
    "code of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x01sb.",
    "called data": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "object of a class by opcode": b"(ios\nsystem\n.",
    "extension": b"\x82\x01.",
    "tensor without storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))tR.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickle(name, tmp_path, capsys):
    assert refused_soon(archive(PICKLES[name], tmp_path), tmp_path, capsys)


def test_description_that_is_too_large_or_compressed(tmp_path, capsys):
    bomb = b"\x80\x02" + b"]" * (MAX_PICKLE + 1)
    assert str(MAX_PICKLE) in refused_soon(archive(bomb, tmp_path), tmp_path, capsys)
    packed = archive(bomb, tmp_path, zipfile.ZIP_DEFLATED)
    assert "compressed" in refused_soon(packed, tmp_path, capsys)


# ---- tensors ----


def with_weight(change) -> dict:
    content = checkpoint_of("v2_text_a")
    name = "blocks.1.mlp.fc1.weight"
    content["model"][name] = change(content["model"][name])
    return content


TENSORS = {
    "one number for 4 TB": (lambda w: torch.zeros(1).expand(10**6, 10**6), "fewer numbers"),
    "none": (lambda w: w[:0], "empty"),
    "many labels of nothing": (lambda w: torch.zeros(10**12, 0), "empty"),
    "sparse": (lambda w: w.to_sparse(), "_get_layout"),
    "meta": (lambda w: w.to("meta"), "_rebuild_meta_tensor_no_storage"),
    "quantised": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "QInt8Storage"),
    "complex": (lambda w: w.to(torch.complex64), "ComplexFloatStorage"),
    "a number": (lambda w: torch.tensor(1.0), "has shape ()"),
    "not a number": (lambda w: w * math.nan, "holds NaN"),
    "infinite": (lambda w: w / 0, "infinity"),
    "a list": (lambda w: w.tolist(), "not a tensor"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TENSORS)
def test_tensor(name, tmp_path, capsys):
    change, words = TENSORS[name]
    assert words in refused_soon(with_weight(change), tmp_path, capsys)


def test_tensors_that_share_their_numbers(tmp_path, capsys):
    content = checkpoint_of("v2_text_a")
    weight = torch.zeros(400, 400)
    content["model"] |= {f"w{n}": weight for n in range(1000)}
    assert "share" in refused_soon(content, tmp_path, capsys)


def test_storage_of_the_old_format_that_is_not_there(tmp_path, capsys):
    numbers = b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu\x8a\x06" + (2**40).to_bytes(
        6, "little"
    )
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, None, ["0"]]
    pickles = [pickle.dumps(part, 2) for part in parts]
    pickles[3] = b"\x80\x02(" + numbers + b"NtQ."
    (tmp_path / "checkpoint.pt").write_bytes(b"".join(pickles) + (2**40).to_bytes(8, "little"))
    assert "ends inside of a tensor" in refused_soon(tmp_path / "checkpoint.pt", tmp_path, capsys)


# ---- sizes that only the configuration says ----

SIZES = [
    ("v2_text_a", "depth", 10**9),
    ("v2_text_a", "depth", 900),
    ("v2_text_a", "embed_dim", 2**30),
    ("v2_text_a", "num_heads", 10**9),
    ("v2_text_a", "embed_dim", 10**4000),
    ("v2_text_a", "mlp_ratio", "a"),
    ("v2_text_a", "mlp_ratio", [0]),
    ("v2_text_a", "mlp_ratio", math.nan),
    ("v2_text_a", "norm_eps", {}),
    ("v2_text_a", "modalities.text.num_extra_tokens", 2**31),
    ("v2_text_a", "modalities.text.decoder.decoder_layers", 10**8),
    ("v2_text_a", "modalities", 5),
    ("v2_image_a", "modalities.image.input_size", 2**30),
    ("v2_image_a", "modalities.image.input_size", 160_000),
    ("v2_audio_a", "modalities.audio.conv_pos_width", 2**30),
    ("v2_audio_a", "modalities.audio.conv_pos_depth", 0),
    ("v2_audio_a", "modalities.audio.feature_encoder_spec", "[(512, 10, 5)] * 999999999"),
    ("v2_audio_a", "modalities.audio.feature_encoder_spec", "(" * 100_000),
    ("v1_audio_a", "conv_feature_layers", "-" * 100_000 + "1"),
    ("v1_audio_a", "encoder_layers", 2**31),
    ("v1_vision_a", "image_size", 2**30),
    ("v1_vision_a", "patch_size", 0),
    ("v1_text_a", "transformer", "none"),
    ("v1_text_a", "head_layers", 10**9),
    ("v1_text_a", "_name", "\x1b[2J\x1b]0;owned\x07"),
]


@pytest.mark.parametrize(("case", "path", "value"), SIZES)
def test_configuration(case, path, value, tmp_path, capsys):
    content = checkpoint_of(case)
    *sections, name = path.split(".")
    place = content["cfg"]["model"]
    for section in sections:
        place = place[section]
    place[name] = value
    refused_soon(content, tmp_path, capsys)


# ---- at random ----

ODD = [
    None, True, -1, 0, 1, 3.5, 10**5, 2**40, math.nan, math.inf, "", "x", "48", "${model.depth}", [], [1], {},
    {"a": 1}, b"1", (1, 2), "<script>", torch.zeros(3), Namespace(x=1),
]  # fmt: skip


def leaves(tree, depth=0) -> list[tuple]:
    """(container, key) of everything in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    inner = [(tree, key) for key in dict(items)]
    return inner + [leaf for tree, key in inner if depth < 5 for leaf in leaves(tree[key], depth + 1)]


def damaged(content: dict, dice: random.Random) -> None:
    """One to three entries of the configuration, of the tensors or of the file are lost, exchanged or odd."""
    for _ in range(dice.randint(1, 3)):
        place, key = dice.choice(leaves(content))
        what = dice.randrange(3)
        if what == 0 and isinstance(place, dict):
            place.pop(key, None)
        elif what == 1:
            other, name = dice.choice(leaves(content))
            place[key] = other[name]
        else:
            place[key] = dice.choice(ODD)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case",
    ["v1_text_c", "v2_image_a"]
    + [
        pytest.param(case, marks=pytest.mark.slow) for case in ("v1_audio_a", "v1_vision_a", "v2_audio_a", "v2_text_a")
    ],
)
def test_damaged_content_is_converted_or_refused(case, tmp_path, capsys):
    dice, whole = random.Random(case), checkpoint_of(case)
    source, codes = tmp_path / "checkpoint.pt", set()
    for n in range(8):
        content = copy.deepcopy(whole)
        damaged(content, dice)
        torch.save(content, source)
        codes.add(main([str(source), str(tmp_path / str(n))]))
        assert len(capsys.readouterr().err.splitlines()) <= 1
    assert 2 in codes <= {0, 2}


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_read_or_refused(zipped, tmp_path):
    buffer, dice, refused = io.BytesIO(), random.Random(zipped), 0
    content = checkpoint_of("v1_text_c")
    small = {"model": {"w": torch.zeros(5)}, "cfg": content["cfg"], "optimizer_history": content["optimizer_history"]}
    torch.save(small, buffer, _use_new_zipfile_serialization=zipped)
    whole, source = buffer.getvalue(), tmp_path / "checkpoint.pt"
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            start = dice.randrange(len(data))
            cut = bytes(dice.randrange(256) for _ in range(dice.randint(0, 3)))
            data[start : start + dice.randint(0, 3)] = cut
        source.write_bytes(data)
        try:
            read_pickle(source)
        except Refused:
            refused += 1
    assert refused > 50
