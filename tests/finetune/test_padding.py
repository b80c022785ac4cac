"""Speech encoders, as each command opens them, give a clip the same frames alone and in a padded batch."""

from types import SimpleNamespace

import pytest
import torch

from data2vec.finetune.arguments import resolve
from data2vec.finetune.audio.task import AudioClassification
from data2vec.finetune.ctc.task import SpeechRecognition
from data2vec.finetune.probe.arguments import Probe
from data2vec.finetune.probe.runner import pretrained_encoder
from tests.finetune.encoders import FAMILIES, encoder_folder


def of_task(run, task_class):
    data = SimpleNamespace(label_names=("a", "b"), problem_type=None, model_kwargs={"vocab_size": 7})
    return task_class(run).build_model(data).base_model


OPENED = {
    "ctc": (SpeechRecognition, lambda run: of_task(run, SpeechRecognition)),
    "audio_classification": (AudioClassification, lambda run: of_task(run, AudioClassification)),
    "probe": (Probe, pretrained_encoder),
}


def opened(folder, command, tmp_path, **model):
    task_class, build = OPENED[command]
    torch.manual_seed(0)
    recipe = {
        "model": {"model_name_or_path": str(folder), **model},
        "data": {"train": {"path": "x"}, "test": {"path": "x"}},
        "training": {"output_dir": str(tmp_path / "run"), "use_cpu": True},
    }
    return build(resolve(recipe, task_class)).eval()


@torch.no_grad()
def difference(encoder):
    """Of the frames of a clip alone and beside a longer one."""
    short = torch.randn(2500)
    batch = torch.stack([torch.cat([short, torch.zeros(5500)]), torch.randn(8000)])
    mask = torch.ones_like(batch, dtype=torch.long)
    mask[0, 2500:] = 0
    alone = encoder(short[None]).last_hidden_state[0]  # (frames, dim)
    return float((encoder(batch, attention_mask=mask).last_hidden_state[0, : len(alone)] - alone).abs().max())


@pytest.mark.parametrize("command", OPENED)
@pytest.mark.parametrize("family", FAMILIES)
def test_real_frames_do_not_depend_on_padding_unless_asked_for(command, family, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", "audio", family)
    assert difference(opened(folder, command, tmp_path)) < 1e-5
    assert difference(opened(folder, command, tmp_path, original_padding=True)) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_folder_is_read_as_the_original_unless_asked_for(family, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", "audio", family)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"original_padding": false', '"original_padding": true'))
    assert difference(opened(folder, "ctc", tmp_path)) > 1e-3
    assert difference(opened(folder, "ctc", tmp_path, original_padding=False)) < 1e-5


@pytest.mark.parametrize(("modality", "value"), [("text", False), ("audio", "no")])
def test_where_it_means_nothing_it_is_refused(modality, value, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", modality, "v1")
    with pytest.raises(ValueError, match="model.original_padding = .* use true or false for a speech encoder"):
        opened(folder, "probe", tmp_path, original_padding=value)
