"""Vision of data2vec 1 as the data2vec_vision repository writes it."""

from argparse import Namespace

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from data2vec.modeling.convert.check import inputs_of
from data2vec.modeling.convert.command import main
from data2vec.tests.modeling.fairseq_cases import checkpoint_of, close, converted, io_of, random_layer, refusal


def beit_names(tensors: dict) -> dict:
    table = {"cls_emb": "cls_token", "mask_emb": "mask_token", "patch_embed.conv": "patch_embed.proj"}
    table |= {"encoder.": "", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2", "final_proj": "lm_head"}
    result = {}
    for name, tensor in tensors.items():
        for old, new in table.items():
            name = name.replace(old, new)
        result[name] = tensor
    return result


ARGS = {
    "model": "beit_base_patch16_224", "input_size": 32, "num_mask_patches": 8, "min_mask_patches_per_block": 2,
    "max_mask_patches_per_block": None, "target_layers": "[1, 2, 3]", "layer_results": "end", "l1_beta": 2.0,
    "l2_loss": False, "post_target_layer_norm": True, "no_target_layer_norm_last": False, "ema_decay_init": 0.999,
    "ema_decay": 0.9998, "ema_start_at": 0, "drop_path": 0.25, "attn_drop_rate": 0.05, "loss_scale": -1,
    "layer_scale_init_value": 0.1,
}  # fmt: skip


def beit_checkpoint(**changes) -> dict:
    model = checkpoint_of("v1_vision_a")["model"]
    teacher = {f"encoder.{name}": tensor for name, tensor in model.pop("_ema").items()}
    whole = {name: tensor * 1.5 for name, tensor in model.items() if not name.startswith("encoder.")} | teacher
    return {
        "model": beit_names(model),
        "model_ema": beit_names(whole),
        "args": Namespace(**ARGS | changes),
        "epoch": 7,
    }


def test_beit(tmp_path):
    content = beit_checkpoint()
    folder = converted(content, tmp_path)
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    io = io_of("v1_vision_a")
    out = model(**inputs_of(model, io), masked=io["in.vision_mask"].flatten(1).bool())
    # 1e-6 in this repository's norms, 1e-5 in fairseq's
    assert model.config.layer_norm_eps == 1e-6
    head = content["model"]
    close(out.predictions, io["reg.x"] @ head["lm_head.weight"].T + head["lm_head.bias"], 1e-3)
    objective = model.config.objective
    assert objective["top_k_layers"] == 3 and objective["target_layer_norm"] == objective["target_norm"] == "layer"
    assert objective["loss_scale"] == pytest.approx(1 / 48) and objective["ema_decay"] == 0.9998
    golden = content["model_ema"]["patch_embed.proj.weight"]
    assert torch.equal(model.teacher.embeddings.patch_embeddings.projection.weight, golden)
    assert set(AutoImageProcessor.from_pretrained(folder).image_mean) == {0.5}

    assert main([str(folder), str(tmp_path / "back.pt"), "--to-fairseq"]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for part in ("model", "model_ema"):
        assert set(back[part]) == set(content[part])
        assert all(torch.equal(back[part][name], tensor) for name, tensor in content[part].items())
    for name in set(ARGS) & set(back["args"]) - {"model", "ema_decay_init"}:
        assert back["args"][name] == ARGS[name], name


def test_beit_with_other_targets_is_refused(tmp_path, capsys):
    assert "args.target_layers" in refusal(beit_checkpoint(target_layers="[0,2]"), tmp_path, capsys)


def beit_classifier() -> dict:
    content = beit_checkpoint(nb_classes=7)
    del content["model_ema"]
    model = {n: t for n, t in content["model"].items() if not n.startswith(("lm_head", "norm.", "rel_pos", "mask"))}
    shared = content["model"]["rel_pos_bias.relative_position_bias_table"]
    index = content["model"]["rel_pos_bias.relative_position_index"]
    for n in range(4):  # fine-tuning gives each block its own table
        model[f"blocks.{n}.attn.relative_position_bias_table"] = shared
        model[f"blocks.{n}.attn.relative_position_index"] = index
    head = random_layer("head.", 7) | {"fc_norm.weight": torch.rand(48), "fc_norm.bias": torch.rand(48)}
    return content | {"model": model | head}


def test_encoder_of_a_classifier(tmp_path):
    encoder = AutoModel.from_pretrained(converted(beit_classifier(), tmp_path, "--encoder-only")).eval()
    io = io_of("v1_vision_a")
    close(encoder(io["in.img"]).last_hidden_state[:, 1:], io["feat.layer_result.3"], 1e-3)


def test_beit_classification(tmp_path):
    content = beit_classifier()
    head = content["model"]
    folder = converted(content, tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert type(classifier).__module__.startswith("transformers.")
    io = io_of("v1_vision_a")
    pooled = io["feat.layer_result.3"].mean(1)  # the last block, before the final norm
    normed = torch.nn.functional.layer_norm(pooled, (48,), head["fc_norm.weight"], head["fc_norm.bias"], eps=1e-6)
    close(classifier(io["in.img"]).logits, normed @ head["head.weight"].T + head["head.bias"], 1e-3)
