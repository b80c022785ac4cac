"""Files as facebook/data2vec-* published them: pickled weights, buffers that are no longer stored, and old configs."""

import json

import pytest
import torch
import transformers
import yaml
from transformers import AutoModel

from data2vec.pretraining import run
from data2vec.tests.finetune.encoders import CONFIGS
from data2vec.tests.pretraining.tiny_runs import recipe, write_sources


BASES = {"audio": "Data2VecAudioModel", "vision": "Data2VecVisionModel", "text": "Data2VecTextForMaskedLM"}
HEADS = {
    "Data2VecAudioForCTC": "AutoModelForCTC",
    "Data2VecVisionForImageClassification": "AutoModelForImageClassification",
    "Data2VecTextForSequenceClassification": "AutoModelForSequenceClassification",
}


def published(folder, name, **config_fields):
    """A folder of `transformers` 4.17's layout, and the model that is in it."""
    modality = name.removeprefix("Data2Vec").split("For")[0].removesuffix("Model").lower()
    config = CONFIGS[modality, "v1"]()
    for field, value in config_fields.items():
        setattr(config, field, value)
    torch.manual_seed(1)
    model = getattr(transformers, name)(config).eval()
    weights = dict(model.state_dict())
    tables = [key for key in weights if key.endswith("relative_position_bias_table")]
    weights |= {key.removesuffix("bias_table") + "index": torch.zeros(17, 17, dtype=torch.long) for key in tables}
    if modality == "text":
        weights["data2vec_text.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "pytorch_model.bin")
    old = {key: value for key, value in config.to_dict().items() if key not in ("dtype", "objective")}
    old |= {"architectures": [name], "torch_dtype": "float32", "transformers_version": "4.17.0.dev0"}
    (folder / "config.json").write_text(json.dumps(old))
    return model


@pytest.mark.parametrize("modality", BASES)
def test_pretraining_continues_from_a_published_encoder(modality, tmp_path, capsys):
    sizes = {"vocab_size": 261} if modality == "text" else {}
    model = published(tmp_path / "hub", BASES[modality], **sizes)
    write_sources(tmp_path / "sources")
    sections = recipe(f"{modality}-1", tmp_path / "sources", tmp_path / "run", max_steps=1, learning_rate=0.0)
    sections["objective"]["ema_anneal_steps"] = 1
    if modality == "vision":  # in colour, 16 x 16
        sections["data"]["upscale"] = True
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    flag = ["--model", f"{{model_name_or_path: {tmp_path / 'hub'}}}"]
    code = run.main([str(tmp_path / "recipe.yaml"), *flag])
    assert code == 0, capsys.readouterr().err
    before, after = model.base_model.state_dict(), AutoModel.from_pretrained(tmp_path / "run").state_dict()
    assert set(before) <= set(after)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", HEADS)
def test_a_published_fine_tuned_model_opens(name, tmp_path):
    model = published(tmp_path, name)
    opened, found = getattr(transformers, HEADS[name]).from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["mismatched_keys"]
    inputs = {
        "Audio": {"input_values": torch.randn(2, 4000)},
        "Vision": {"pixel_values": torch.randn(2, 3, 16, 16)},
        "Text": {"input_ids": torch.randint(5, 20, (2, 9))},
    }[name.removeprefix("Data2Vec").split("For")[0]]
    with torch.no_grad():
        torch.testing.assert_close(opened.eval()(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)
