"""The front ends of AV-data2vec against AV-HuBERT's tensors, and a whole step against a plain loop."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from data2vec.modeling import AvData2VecConfig, AvData2VecFeatureExtractor, AvData2VecForPreTraining
from data2vec.modeling.convert.keys import to_ours, under
from data2vec.modeling.convert.sv_data2vec import VIDEO
from tests.modeling.tiny_data2vec2 import same
from tests.modeling.tiny_streams import build, inputs
from tests.reference import cases, folder_of, part


CASES = cases("avhubert_frontend_a")  # not in this repository: the original is for research only
HERE = pytest.mark.skipif(not CASES, reason="the reference cases of AV-HuBERT are not here")
ROWS = [
    *under("feature_extractor_video.", "av_data2vec.embeddings.video.", VIDEO),
    ("feature_extractor_audio.proj.", "av_data2vec.embeddings.audio.projection."),
    ("layer_norm.", "av_data2vec.embeddings.fusion.norm."),
    ("post_extract_proj.", "av_data2vec.embeddings.fusion.projection."),
    ("mask_emb", "decoder.mask_token.weight"),
]
SETS = {"av": (True, True), "a": (True, False), "v": (False, True)}


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(folder_of(CASES[0]) / "io.safetensors")


@pytest.fixture
def model() -> Any:
    fields = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    objective = AvData2VecConfig.default_objective | {"top_k_layers": 1}
    shape = {"resnet_width": 8, "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 1}
    built = AvData2VecForPreTraining(AvData2VecConfig(**fields, **shape, objective=objective))
    ours, left = to_ours(load_file(folder_of(CASES[0]) / "model.safetensors"), ROWS, None)
    assert set(left) == {"final_proj.weight", "final_proj.bias"}
    assert built.load_state_dict(ours, strict=False).unexpected_keys == []
    return built


def fused(model: Any, io: dict[str, Tensor], which: str) -> Any:
    batch = (io["batch.padded.audio"].transpose(1, 2), io["batch.padded.video"].unsqueeze(2))
    present = torch.tensor(SETS[which]).expand(2, 1, 2)
    return model.av_data2vec.embeddings(*batch, present)


@HERE
def test_features(io):
    """Log-mel energies, stacks as long as the video, and crops."""
    extractor = AvData2VecFeatureExtractor()
    for number in range(2):
        wave, frames = io[f"in.wav.{number}"], io[f"in.frames.{number}"]
        same(extractor.log_mel(wave).float(), io[f"audio.logfbank.{number}"], 2e-5)
        same(extractor.audio(wave, len(frames)), io[f"audio.normalised.{number}"])
        same(extractor.audio(wave.float() / 32768, len(frames)), io[f"audio.normalised.{number}"])
        same(extractor.video(frames).squeeze(1), io[f"video.transformed.{number}"])
    made = extractor(audio=[io["in.wav.0"], io["in.wav.1"]], videos=[io["in.frames.0"], io["in.frames.1"]])
    same(made["input_features"], io["batch.padded.audio"].transpose(1, 2))
    same(made["pixel_values"].squeeze(2), io["batch.padded.video"])
    assert torch.equal(made["attention_mask"] == 0, io["batch.padded.padding_mask"])


@HERE
def test_front_ends_and_fusion(model, io):
    with torch.no_grad():
        tokens = fused(model.eval(), io, "av")
    same(tokens.streams[0], io["eval.audio_feature"].transpose(1, 2))
    same(tokens.streams[1], io["eval.video_feature"].transpose(1, 2))
    same(tokens.values, io["eval.av.fused"])


@HERE
@pytest.mark.parametrize("which", SETS)
def test_each_set_of_streams_in_training_with_gradients(model, io, which):
    tokens = fused(model.train(), io, which)
    same(tokens.values, io[f"train.{which}.fused"])
    loss = (tokens.values * io["train.loss_weight"]).sum() / tokens.values.numel()
    same(loss, io[f"train.{which}.loss"])
    loss.backward()
    expected, left = to_ours(part(io, f"grad.{which}."), ROWS, None)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not left and set(expected) <= set(found)
    for name, gradient in expected.items():
        same(found[name], gradient, 1e-5)
    if which == "av":
        state = model.state_dict()
        moved, left = to_ours(part(io, "train.av.buffer_after."), ROWS, None)
        assert moved and not left
        for name, buffer in moved.items():
            same(state[name], buffer)


def test_a_step_is_a_plain_loop():
    """Every sample alone: its streams, its mask, its teacher, and the loss where it is taken; gradients as well."""
    model, batch = build(AvData2VecForPreTraining), inputs("av")
    masked = torch.zeros(3, 11, dtype=torch.bool)
    masked[0, 2:6] = masked[1, 5:8] = masked[2, 0:3] = True
    student = torch.tensor([[True, True], [False, True], [True, False]]).unsqueeze(1)
    teacher = torch.tensor([[True, False], [True, True], [True, False]]).unsqueeze(1)
    scored = masked.clone()
    scored[1] = True  # video alone
    how = {"masked": masked, "student_streams": student, "teacher_streams": teacher, "scored": scored}
    out = model(**batch, **how)
    out.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    encoder, total = model.av_data2vec, 0.0
    for row in range(3):
        sound = encoder.embeddings.audio(batch["input_features"][row : row + 1])
        video = encoder.embeddings.video(batch["pixel_values"][row : row + 1])

        def fuse(there, sound=sound, video=video):
            both = torch.cat([value * float(has) for value, has in zip((sound, video), there, strict=True)], dim=-1)
            fusion = encoder.embeddings.fusion
            return fusion.projection(F.layer_norm(both, (48,), fusion.norm.weight, fusion.norm.bias))

        with torch.no_grad():
            hidden, taps = fuse(teacher[row, 0]), []
            hidden = hidden + model.teacher.positions.layers[0](hidden, (11,))
            for block in model.teacher.encoder.layers:
                _, ffn, _, hidden, _ = block(hidden)
                taps.append(F.instance_norm(ffn.transpose(1, 2)).transpose(1, 2))
            targets = sum(taps[-2:]) / 2
        seen = fuse(student[row, 0])
        positions = encoder.positions.layers[0](seen.masked_fill(masked[row].view(1, -1, 1), 0), (11,))
        hidden = torch.where(masked[row].view(1, -1, 1), model.decoder.mask_token.weight, seen) + positions
        for block in encoder.encoder.layers:
            hidden = block(hidden)[3]
        predicted = model.decoder.projection(encoder.encoder.final_norm(hidden))
        total = total + (predicted - targets)[0, scored[row]].square().sum() * 24**-0.5
    loss = total / scored.sum()
    same(out.loss, loss)
    loss.backward()
    for name, gradient in gradients.items():
        same(model.get_parameter(name).grad, gradient)
