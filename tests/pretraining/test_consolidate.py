"""A checkpoint becomes what the end of a run leaves, whole or in shards; and no pickle in it is run."""

import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as sharded
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining

from data2vec.modeling import Data2Vec2VisionForPreTraining, Data2VecVisionForPreTraining
from data2vec.pretraining.consolidate import SHARDS, consolidate, main


sys.path.append(str(Path(__file__).parents[1] / "modeling"))

import tiny_data2vec2


PROCESSOR = ("preprocessor_config.json", "added_tokens.json", "spiece.model", "chat_template.jinja")


@pytest.fixture(scope="module")
def model():
    return tiny_data2vec2.build(Data2Vec2VisionForPreTraining)


@pytest.fixture(params=["whole", "shards"])
def checkpoint(request, model, tmp_path):
    folder = tmp_path / "run" / "checkpoint-3"
    model.config.save_pretrained(folder)
    for name in PROCESSOR:
        (folder / name).write_text("{}")
    if request.param == "whole":
        save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    else:
        writer = sharded.FileSystemWriter(folder / SHARDS)
        sharded.save({"model": model.state_dict()}, storage_writer=writer, no_dist=True)
    return folder


def test_encoder_on_top_and_everything_beside_it(checkpoint, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(out)]) == 0 and str(out) in capsys.readouterr().out
    encoder = AutoModel.from_pretrained(out, trust_remote_code=False).state_dict()
    assert all(torch.equal(encoder[name], tensor) for name, tensor in model.base_model.state_dict().items())
    whole = AutoModelForPreTraining.from_pretrained(out, subfolder="pretraining", trust_remote_code=False)
    assert all(torch.equal(whole.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert all((place / name).is_file() for place in (out, out / "pretraining") for name in PROCESSOR)


def test_a_folder_in_use_is_left_alone(checkpoint, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    assert main([str(checkpoint), str(tmp_path / "out")]) == 2 and "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("checkpoint", ["shards"], indirect=True)
class TestRefusals:
    def test_no_weights(self, checkpoint, tmp_path):
        shutil.rmtree(checkpoint / SHARDS)
        with pytest.raises(ValueError, match="holds neither model.safetensors nor"):
            consolidate(checkpoint, tmp_path / "out")

    def test_no_checkpoint(self, checkpoint, tmp_path):
        with pytest.raises(ValueError, match="has no config.json: name a checkpoint-N folder"):
            consolidate(checkpoint.parent, tmp_path / "out")

    def test_other_weights_than_the_configuration_says(self, checkpoint, tmp_path):
        save_file({"teacher.x": torch.zeros(1)}, checkpoint / "model.safetensors")
        with pytest.raises(ValueError, match="does not hold the weights"):
            consolidate(checkpoint, tmp_path / "out")

    def test_a_pickle_that_wants_to_run_something(self, checkpoint, tmp_path):
        target = tmp_path / "ran"

        class Harmful:
            def __reduce__(self):
                return open, (str(target), "w")

        (checkpoint / SHARDS / ".metadata").write_bytes(pickle.dumps(Harmful()))
        with pytest.raises(ValueError, match="refused"):
            consolidate(checkpoint, tmp_path / "out")
        assert not target.exists()


def test_data2vec_1_leaves_a_stock_encoder(tmp_path):
    from transformers import Data2VecVisionConfig, Data2VecVisionModel

    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    config = Data2VecVisionConfig(**shape, image_size=12, patch_size=3)
    masking = {"method": "beit_block", "ratio": 0.6, "min_patches": 2}
    config.objective = {**Data2VecVisionForPreTraining.default_objective, "top_k_layers": 2, "masking": masking}
    model = Data2VecVisionForPreTraining(config)
    model.save_pretrained(tmp_path / "checkpoint-1")
    consolidate(tmp_path / "checkpoint-1", tmp_path / "out")
    stock = Data2VecVisionModel.from_pretrained(tmp_path / "out").state_dict()
    expected = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert all(torch.equal(tensor, expected["data2vec_vision." + name]) for name, tensor in stock.items())
