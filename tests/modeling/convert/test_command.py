"""The original's checkpoints become folders that open with the Auto classes and answer alike, and back."""

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)

from data2vec.modeling.convert.check import differences, inputs_of, masks_of
from data2vec.modeling.convert.checkpoint import flatten
from data2vec.modeling.convert.command import main
from data2vec.tests.modeling.fairseq_cases import (
    checkpoint_of,
    close,
    converted,
    io_of,
    random_layer,
    refusal,
    wrapped,
)
from data2vec.tests.reference import EAT_CASES, GOLDEN, cases, folder_of
from tests.warm import warm_python


CASES = ["v1_audio_a", "v1_text_a", "v1_text_c", "v1_vision_a", "v2_audio_a", "v2_image_a", "v2_text_a", *EAT_CASES]


# What the original wrote


@pytest.mark.parametrize("case", CASES)
def test_converted_folder_answers_as_the_original(case, tmp_path, capsys):
    source = folder_of(case) / "checkpoint.pt"
    assert main([str(source), str(tmp_path / "out"), "--check", str(source.parent)]) == 0
    assert "largest difference: " in capsys.readouterr().out
    model, loading = AutoModelForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    found = differences(model.eval(), io_of(case))
    if case == "v1_text_c":  # the original's teacher saw masked positions alone, ours sees the text
        assert found.pop("targets") > 1e-2
    assert max(found.values()) < 1e-5
    assert model.config.num_updates == 4
    assert ("CLS targets" in found) == (case == "v2_image_a" or case in EAT_CASES)
    assert case in ("v1_text_a", "v1_text_c", "v2_text_a") or list((tmp_path / "out").glob("preprocessor_config.json"))
    assert "checkpoint.pt" in (tmp_path / "out" / "README.md").read_text()


CHECKED = [name for pattern in ("eat_*", "emotion2vec_*", "*2vec_pc_*", "point2vec_*") for name in cases(pattern)]


@pytest.mark.parametrize(
    "case", [name for name in dict.fromkeys(CHECKED) if (folder_of(name) / "checkpoint.pt").is_file()]
)
def test_check_agrees_with_every_later_method(case, tmp_path, capsys):
    """Cases that come with the package, and all others that are here."""
    source = folder_of(case) / "checkpoint.pt"
    assert main([str(source), str(tmp_path / "out"), "--check", str(source.parent)]) == 0
    largest = capsys.readouterr().out.rpartition("largest difference: ")[2]
    assert float(largest) < 1e-5


def test_check_refuses_a_case_that_says_nothing(tmp_path, capsys):
    case, source = tmp_path / "case", GOLDEN / "point2vec_cls_a"
    case.mkdir()
    save_file({"in.points": io_of("point2vec_cls_a")["in.points"]}, case / "io.safetensors")
    assert main([str(source / "checkpoint.pt"), str(tmp_path / "out"), "--check", str(case)]) != 0
    assert "neither features nor logits" in capsys.readouterr().err


def test_noise_of_a_case_is_put_where_it_was_hidden():
    """Cases hold what the original drew for the hidden tokens, or that in its places."""
    io = io_of("v2_image_a")
    hidden = io["in.precomputed_mask"].bool()
    io["in.mask_noise"] = torch.randn(len(hidden), int(hidden[0].sum()), 48)
    drawn = masks_of(None, io)
    placed = drawn["mask_noise"].flatten(0, 1)
    assert torch.equal(placed.any(-1), hidden)
    assert torch.equal(placed[0][hidden[0]].sort(0).values, io["in.mask_noise"][0].sort(0).values)
    assert torch.equal(masks_of(None, io | {"in.mask_noise": placed})["mask_noise"], drawn["mask_noise"])


def test_check_tells_a_wrong_model(tmp_path):
    content = checkpoint_of("v2_text_a")
    content["model"]["blocks.0.mlp.fc2.weight"] *= 1.5
    model = AutoModelForPreTraining.from_pretrained(converted(content, tmp_path)).eval()
    found = differences(model, io_of("v2_text_a"))
    assert min(found["features"], found["predictions"]) > 1e-3 and found["targets"] < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_encoder_only_answers_as_the_original(case, tmp_path):
    source = folder_of(case) / "checkpoint.pt"
    assert main([str(source), str(tmp_path / "out"), "--encoder-only", "--check", str(source.parent)]) == 0
    model, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["unexpected_keys"] and not {key for key in loading["missing_keys"] if "pooler" not in key}
    assert differences(model.eval(), io_of(case))["features"] < 1e-5
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert not [name for name in stored if name.startswith(("teacher.", "head.", "decoder."))]
    assert not (tmp_path / "out" / "fairseq_unused.safetensors").exists()
    if case.startswith("v1"):  # stock transformers opens it
        assert type(model).__module__.startswith("transformers.")
        assert json.loads((tmp_path / "out" / "config.json").read_text()).get("auto_map") is None


def test_command_runs_without_a_package_beside(tmp_path):
    source = folder_of("v2_text_a") / "checkpoint.pt"
    command = [warm_python(), "-P", "-m", "data2vec.modeling.convert_fairseq", str(source), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("case", CASES)
def test_round_trip_restores_every_tensor(case, tmp_path):
    folder = converted(checkpoint_of(case), tmp_path)
    assert main([str(folder), str(tmp_path / "back.pt"), "--to-fairseq"]) == 0
    back, original = torch.load(tmp_path / "back.pt", weights_only=True), checkpoint_of(case)
    tensors, golden = flatten(back["model"]), flatten(original["model"])
    assert set(tensors) == set(golden)
    for name, tensor in golden.items():
        computed = case in EAT_CASES and name.endswith("positions")  # in fp32 there
        torch.testing.assert_close(tensors[name], tensor, atol=1e-6 if computed else 0, rtol=0)
    assert set(back["model"]) == set(original["model"])  # the teacher is the same dict inside
    assert back["optimizer_history"][-1]["num_updates"] == 4

    # and the configuration says the same network and objective
    assert main([str(tmp_path / "back.pt"), str(tmp_path / "again")]) == 0
    first, second = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "again"))
    assert first == second
    names = ("depth", "embed_dim", "num_heads", "mlp_ratio", "clone_batch", "cls_loss", "loss_beta", "ema_decay")
    model, golden_model = back["cfg"]["model"], original["cfg"]["model"]
    vision = case.startswith("v1_vision")  # its mlp_ratio is ignored, and 4 in truth
    for name in set(names) & set(golden_model) - ({"mlp_ratio"} if vision else set()):
        assert model[name] == pytest.approx(golden_model[name]), name


def test_vision_teacher_of_everything_goes_there_and_back(tmp_path):
    content = checkpoint_of("v1_vision_a")
    model = content["model"]
    whole = {f"encoder.{name}": tensor for name, tensor in model["_ema"].items()}
    whole |= {name: t + 1 for name, t in model.items() if not name.startswith(("encoder.", "_ema"))}
    content["model"] = {n: t for n, t in model.items() if n != "_ema"} | {"_ema": whole}
    content["cfg"]["model"]["ema_transformer_only"] = False
    folder = converted(content, tmp_path)
    assert main([str(folder), str(tmp_path / "back.pt"), "--to-fairseq"]) == 0
    back, golden = flatten(torch.load(tmp_path / "back.pt", weights_only=True)["model"]), flatten(content["model"])
    assert set(back) == set(golden) and all(torch.equal(back[name], tensor) for name, tensor in golden.items())


def test_folder_of_our_own_goes_back(tmp_path, capsys):
    """Nothing left of a conversion, token types that are not zero."""
    folder = converted(checkpoint_of("v1_text_a"), tmp_path)
    model = AutoModelForPreTraining.from_pretrained(folder)
    for embeddings in (model.data2vec_text.embeddings, model.teacher.embeddings):
        torch.nn.init.normal_(embeddings.token_type_embeddings.weight)
    model.config.num_updates, model.config.layer_norm_eps = None, 1e-12
    model.save_pretrained(tmp_path / "own")
    capsys.readouterr()
    assert main([str(tmp_path / "own"), str(tmp_path / "own.pt"), "--to-fairseq"]) == 0
    assert "layer_norm_eps = 1e-12 becomes 1e-05" in capsys.readouterr().out
    assert main([str(tmp_path / "own.pt"), str(tmp_path / "again")]) == 0
    io = io_of("v1_text_a")
    ours, theirs = model.eval(), AutoModelForPreTraining.from_pretrained(tmp_path / "again").eval()
    inputs = inputs_of(ours, io)
    real = inputs["attention_mask"].bool()
    states = [m.base_model(**inputs).last_hidden_state[real].detach() for m in (ours, theirs)]
    close(*states)
    inputs["masked"] = io["in.src_tokens"] == 54
    close(theirs(**inputs).targets, ours(**inputs).targets)


def test_encoder_cannot_go_back(tmp_path, capsys):
    folder = converted(checkpoint_of("v2_text_a"), tmp_path, "--encoder-only")
    assert main([str(folder), str(tmp_path / "back.pt"), "--to-fairseq"]) == 2
    assert "teacher" in capsys.readouterr().err and not (tmp_path / "back.pt").exists()


# Fine-tuned ones, in the original's layout


def recogniser(case: str, outputs: int = 11) -> dict:
    inner = checkpoint_of(case)["cfg"]
    if case == "v2_audio_a":  # what fine-tuning writes into it
        inner["model"]["modalities"]["audio"] |= {"local_grad_mult": 0.0, "encoder_zero_mask": False}
        inner["model"]["modalities"]["audio"] |= {"mask_prob": 0.65, "mask_length": 10, "mask_channel_prob": 0.5}
        inner["model"]["modalities"]["audio"] |= {"learned_alibi_scale": False}
    model = {"_name": "wav2vec_ctc", "apply_mask": True, "mask_prob": 0.5, "mask_channel_prob": 0.25}
    return {
        "cfg": {"model": model | {"w2v_args": inner}, "task": {"_name": "audio_finetuning", "normalize": True}},
        "model": wrapped(case, "w2v_encoder.w2v_model.", ("final_proj", "decoder"))
        | random_layer("w2v_encoder.proj.", outputs),
    }


@pytest.mark.parametrize("case", ["v1_audio_a", "v2_audio_a"])
@pytest.mark.parametrize("letters", [True, False])
def test_ctc(case, letters, tmp_path):
    content = recogniser(case)
    if letters:
        (tmp_path / "dict.ltr.txt").write_text("| 90\nE 50\nT 40\nA 30\nO 20\nN 10\nI 5\n")
    folder = converted(content, tmp_path)
    model = AutoModelForCTC.from_pretrained(folder).eval()
    io = io_of(case)
    logits = model(**inputs_of(model, io)).logits
    weight, bias = (content["model"][f"w2v_encoder.proj.{x}"] for x in ("weight", "bias"))
    expected = io["feat.x"] @ weight.T + bias
    close(logits, expected)
    assert model.config.mask_time_prob == 0.5 and model.config.mask_feature_prob == 0.25
    assert model.config.pad_token_id == 0
    if letters:
        processor = AutoProcessor.from_pretrained(folder)
        assert processor.feature_extractor.do_normalize
        # the original's numbers: <s> (the blank), <pad>, </s>, <unk>, |, E, T, A ...
        assert processor.tokenizer.decode([6, 0, 5, 5, 4, 7]) == "TE A"
    else:
        assert AutoFeatureExtractor.from_pretrained(folder).do_normalize
        assert "dict.ltr.txt" in (folder / "README.md").read_text()


@pytest.mark.parametrize("case", ["v1_audio_a", "v2_audio_a"])
def test_encoder_of_a_recogniser(case, tmp_path, capsys):
    check = str(folder_of(case))
    for options in (["--encoder-only"], []):  # with a head, what is in front of it is checked
        place = tmp_path / str(len(options))
        place.mkdir()
        converted(recogniser(case), place, *options, "--check", check)
        assert float(capsys.readouterr().out.split()[-1]) < 1e-5
    assert differences(AutoModel.from_pretrained(tmp_path / "1" / "out").eval(), io_of(case))["features"] < 1e-5


def test_dictionary_of_another_model_is_refused(tmp_path, capsys):
    content = recogniser("v1_audio_a")
    letters = tmp_path / "letters.txt"
    letters.write_text("| 90\nE 50\n")
    assert "has 2 letters, the model has 7" in refusal(content, tmp_path, capsys, "--dict", str(letters))


def head_logits(first: torch.Tensor, head: dict, stem: str) -> torch.Tensor:
    hidden = torch.tanh(first @ head[f"{stem}dense.weight"].T + head[f"{stem}dense.bias"])
    return hidden @ head[f"{stem}out_proj.weight"].T + head[f"{stem}out_proj.bias"]


@pytest.mark.parametrize("case", ["v1_text_a", "v2_text_a"])
@pytest.mark.parametrize("labels", [3, 1])
def test_text_classification(case, labels, tmp_path):
    stem = "classification_heads.sentence_classification_head."
    head = random_layer(f"{stem}dense.", 48) | random_layer(f"{stem}out_proj.", labels)
    cfg = checkpoint_of(case)["cfg"]
    if case == "v1_text_a":  # RoBERTa's flat configuration, and its unused word predictor
        t = cfg["model"]["transformer"]["encoder"]
        sizes = {f"encoder_{name}": t[name] for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")}
        model = {"_name": "roberta", "max_positions": 64, "dropout": 0.1, "activation_fn": "gelu"} | sizes
        tensors = wrapped(case, "", ("regression_head",)) | random_layer("encoder.lm_head.dense.", 48)
        content = {"cfg": {"model": model, "task": {"_name": "sentence_prediction"}}, "model": tensors | head}
    else:
        model = {"_name": "data2vec_text_classification", "pretrained_model_args": cfg}
        content = {"cfg": {"model": model, "task": {}}, "model": wrapped(case, "model.", ("decoder",)) | head}
    folder = converted(content, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    io = io_of(case)
    close(model(**inputs_of(model, io)).logits, head_logits(io["feat.x"][:, 0], head, stem))
    assert (model.config.problem_type == "regression") == (labels == 1)


@pytest.mark.parametrize("mode", ["MEAN_POOLING", "CLS_TOKEN"])
def test_image_classification(mode, tmp_path):
    head = random_layer("head.", 7) | {"fc_norm.weight": torch.rand(48), "fc_norm.bias": torch.rand(48)}
    model = {"_name": "mae_image_classification", "prediction_mode": mode, "drop_path_rate": 0.2}
    model["pretrained_model_args"] = checkpoint_of("v2_image_a")["cfg"]
    content = {
        "cfg": {"model": model, "task": {"_name": "mae_image_classification"}},
        "model": wrapped("v2_image_a", "model.", ("decoder",)) | head,
    }
    folder = converted(content, tmp_path)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    io = io_of("v2_image_a")
    states = io["feat.x_with_extra_tokens"]
    pooled = states[:, 1:].mean(1) if mode == "MEAN_POOLING" else states[:, 0]
    normed = torch.nn.functional.layer_norm(pooled, (48,), head["fc_norm.weight"], head["fc_norm.bias"], eps=1e-6)
    close(model(io["in.source"]).logits, normed @ head["head.weight"].T + head["head.bias"])
    processor = AutoImageProcessor.from_pretrained(folder)
    assert tuple(processor.image_mean) == (0.485, 0.456, 0.406) and processor.size["height"] == 48


# Text: the tokenizer


def test_tokenizer_from_the_dictionary(tmp_path):
    words = ["a", "b", "c", "Ġ", "ab", "Ġab", *[f"w{n}" for n in range(44)]]
    order = [5, 4, 0, 1, 2, 3, *range(6, 50)]  # most frequent first
    (tmp_path / "dict.txt").write_text("".join(f"{n} 9\n" for n in order))
    (tmp_path / "encoder.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\nĠ ab\n")
    folder = converted(checkpoint_of("v1_text_a"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("ab ab c").input_ids == [0, 5, 4, 9, 8, 2]
    assert tokenizer.mask_token_id == 54 and tokenizer.pad_token_id == 1
