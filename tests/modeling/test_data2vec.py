"""data2vec 1 as `transformers` users expect a model to behave."""

import json
import subprocess
import textwrap

import pytest
import torch
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    Data2VecAudioForCTC,
    Data2VecAudioForSequenceClassification,
    Data2VecAudioModel,
    Data2VecTextConfig,
    Data2VecTextModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
)

from data2vec.modeling import (
    Data2VecAudioForPreTraining,
    Data2VecTextForPreTraining,
    Data2VecVisionForPreTraining,
    make_padding_independent,
)
from data2vec.modeling.conv import set_channels_last
from tests.warm import warm_python


def audio_config(**kwargs):
    values = {"top_k_layers": 2, "masking": {"method": "span", "prob": 0.65, "length": 3}} | kwargs.pop(
        "objective", {}
    )
    return Data2VecAudioConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, conv_dim=(16, 16),
        conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=2, conv_pos_kernel_size=3,
        num_conv_pos_embedding_groups=4, objective=values, **kwargs,
    )  # fmt: skip


def text_config(**kwargs):
    values = {"top_k_layers": 2, "masking": {"method": "token", "prob": 0.35, "length": 2}} | kwargs.pop(
        "objective", {}
    )
    return Data2VecTextConfig(
        vocab_size=53, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=37, objective=values, **kwargs,
    )  # fmt: skip


def vision_config(**kwargs):
    values = {"top_k_layers": 2, "masking": {"method": "beit_block", "ratio": 0.5, "min_patches": 2}}
    values |= kwargs.pop("objective", {})
    return Data2VecVisionConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, image_size=20, patch_size=4,
        use_shared_relative_position_bias=True, objective=values, **kwargs,
    )  # fmt: skip


def inputs(kind: str, batch: int = 5) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    if kind == "audio":
        return {
            "input_values": torch.randn(batch, 307, generator=g),
            "masked": torch.rand(batch, 29, generator=g) < 0.5,
        }
    if kind == "text":
        ids = torch.randint(4, 52, (batch, 23), generator=g)
        return {"input_ids": ids, "masked": torch.rand(batch, 23, generator=g) < 0.5}
    return {
        "pixel_values": torch.randn(batch, 3, 20, 20, generator=g),
        "masked": torch.rand(batch, 25, generator=g) < 0.5,
    }


KINDS = {
    "audio": (Data2VecAudioForPreTraining, Data2VecAudioModel, audio_config),
    "text": (Data2VecTextForPreTraining, Data2VecTextModel, text_config),
    "vision": (Data2VecVisionForPreTraining, Data2VecVisionModel, vision_config),
}


@pytest.fixture(params=KINDS)
def kind(request):
    torch.manual_seed(0)
    return request.param


def build(kind: str, **kwargs):
    cls, _, config = KINDS[kind]
    return cls(config(**kwargs))


def moved(model):
    """A model whose teacher differs from its student."""
    with torch.no_grad():
        for p in model.base_model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    return model


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_new_teacher_equals_the_student(kind):
    model = build(kind)
    weights = dict(model.base_model.named_parameters())
    for name, tensor in model.teacher.named_parameters():
        assert torch.equal(tensor, weights[name]), name


def test_teacher_has_no_gradient_and_stays_in_eval_mode(kind):
    model = build(kind).train()
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert not any(m.training for m in model.teacher.modules())
    assert model.base_model.training


def test_objective_is_in_config_json_under_one_key(kind, tmp_path):
    build(kind).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["objective"]
    assert stored["top_k_layers"] == 2 and stored["masking"]["method"] in ("span", "token", "beit_block")


def test_continues_from_a_plain_encoder(kind, tmp_path):
    cls, encoder_cls, config = KINDS[kind]
    extra = {"use_mask_token": True, "use_mean_pooling": False} if kind == "vision" else {}
    encoder = encoder_cls(config(**extra))
    encoder.save_pretrained(tmp_path)
    model, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert all(key.startswith("head.") for key in info["missing_keys"]), info["missing_keys"]
    weights = encoder.state_dict()
    assert all(torch.equal(t, weights[n]) for n, t in model.base_model.named_parameters())
    assert all(torch.equal(t, weights[n]) for n, t in model.teacher.named_parameters())


def test_half_a_teacher_is_refused(kind, tmp_path):
    model = build(kind)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("teacher.encoder.layer")}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="only a part of the teacher"):
        type(model).from_pretrained(tmp_path)


def test_saved_encoders_open_without_this_package(tmp_path):
    """A fresh process that cannot import data2vec: no weight missing or left over, the same output."""
    for kind in KINDS:
        torch.manual_seed(0)
        model = moved(build(kind)).eval()
        set_channels_last(model, False)  # the plain layout is bit-identical
        model.save_encoder(tmp_path / kind)
        batch = {k: v for k, v in inputs(kind).items() if k != "masked"}
        torch.save({"inputs": batch, "expected": model.base_model(**batch).last_hidden_state}, tmp_path / f"{kind}.pt")
    code = """
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "data2vec":
                    raise ImportError("not installed here")
        sys.meta_path.insert(0, Blocked())
        import torch
        from transformers import (
            AutoModel, AutoModelForAudioClassification, AutoModelForCTC, AutoModelForImageClassification,
            AutoModelForSequenceClassification,
        )
        HEADS = {
            "audio": (AutoModelForCTC, AutoModelForAudioClassification),
            "text": (AutoModelForSequenceClassification,),
            "vision": (AutoModelForImageClassification,),
        }
        for kind in ("audio", "text", "vision"):
            model, info = AutoModel.from_pretrained(f"{sys.argv[1]}/{kind}", output_loading_info=True)
            io = torch.load(f"{sys.argv[1]}/{kind}.pt", weights_only=True)
            assert torch.equal(model.eval()(**io["inputs"]).last_hidden_state, io["expected"]), kind
            # stock Data2VecTextModel always makes a pooler, which no pretraining trains
            pooler = ["pooler.dense.bias", "pooler.dense.weight"] if kind == "text" else []
            assert sorted(info["missing_keys"]) == pooler and not info["unexpected_keys"], (kind, info)
            for head in HEADS[kind]:  # only the head itself is new, nothing of the encoder is lost
                _, info = head.from_pretrained(f"{sys.argv[1]}/{kind}", output_loading_info=True)
                new = {name.split(".")[0] for name in info["missing_keys"]}
                assert new <= {"lm_head", "projector", "classifier"} and not info["unexpected_keys"], (head, info)
    """
    command = [warm_python(), "-P", "-c", textwrap.dedent(code), str(tmp_path)]
    subprocess.run(command, check=True)


def test_plain_auto_model_opens_a_pretraining_checkpoint(kind, tmp_path):
    model = build(kind)
    model.save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    weights = encoder.state_dict()
    assert all(torch.equal(t, weights[n]) for n, t in model.base_model.named_parameters())


def test_only_masked_positions_are_compared(kind):
    model, batch = build(kind).eval(), inputs(kind)
    out = model(**batch)
    assert out.predictions.shape == out.targets.shape == (int(batch["masked"].sum()), 24)
    assert torch.equal(out.targets, out.all_targets[batch["masked"]])
    whole = model(**batch, num_items_in_batch=1).loss
    torch.testing.assert_close(whole / batch["masked"].sum(), out.loss)


def test_the_student_does_not_see_what_is_masked(kind):
    """Changing a masked input changes targets, not predictions. In speech neighbours hear it: all are masked."""
    model, batch = build(kind).eval(), inputs(kind)
    before = model(**batch)
    if kind == "text":
        batch["input_ids"] = torch.where(batch["masked"], 4 + (batch["input_ids"] + 7) % 48, batch["input_ids"])
    elif kind == "vision":
        hidden = batch["masked"].view(5, 1, 5, 5).repeat_interleave(4, 2).repeat_interleave(4, 3)
        batch["pixel_values"] = batch["pixel_values"] + hidden
    else:
        batch["masked"] = torch.ones_like(batch["masked"])
        before = model(**batch)
        batch["input_values"] = batch["input_values"].flip(1)
    after = model(**batch)
    torch.testing.assert_close(after.predictions, before.predictions)
    assert (after.targets - before.targets).abs().max() > 1e-3


def test_masks_are_sampled_when_not_given(kind):
    model, batch = build(kind).eval(), inputs(kind)
    shape = batch.pop("masked").shape
    torch.manual_seed(1)
    first = model(**batch).masked
    torch.manual_seed(1)
    assert torch.equal(first, model(**batch).masked)
    assert first.shape == shape and first.dtype == torch.bool and 0.1 < first.float().mean() < 0.9
    assert not torch.equal(first, model(**batch).masked)


def test_layerdrop_skips_what_it_is_told_to():
    model = build("audio", layerdrop=0.0).eval()
    batch = inputs("audio")
    assert torch.equal(model(**batch, kept_layers=[True] * 3).loss, model(**batch).loss)
    assert not torch.equal(model(**batch, kept_layers=[True, False, True]).loss, model(**batch).loss)
    for wrong in ([True] * 2, [True] * 4):
        with pytest.raises(ValueError, match=f"kept_layers has {len(wrong)} entries: give one for each of the 3"):
            model(**batch, kept_layers=wrong)


@pytest.mark.parametrize("tap", ["ffn", "ffn_residual", "end_of_block", "self_attention"])
def test_taps_are_the_four_of_the_paper(kind, tap):
    """Against hooks on stock modules: where a block's feature is taken."""
    model = build(kind, objective={"target_tap": tap}).eval()
    found = []
    layer = model.teacher.encoder.layers[-1] if kind == "audio" else model.teacher.encoder.layer[-1]
    module = {
        "audio": {"ffn": "feed_forward", "self_attention": "attention.out_proj", "end_of_block": "final_layer_norm"},
        "text": {
            "ffn": "output.dense",
            "self_attention": "attention.output.dense",
            "end_of_block": "output.LayerNorm",
        },
        "vision": {"ffn": "output", "self_attention": "attention"},
    }[kind].get(tap)
    residual = {"audio": "final_layer_norm", "text": "output.LayerNorm"}.get(kind)
    if module is not None:
        layer.get_submodule(module).register_forward_hook(
            lambda m, i, o: found.append(o[0] if isinstance(o, tuple) else o)
        )
    elif residual is not None:  # what goes into the last norm
        layer.get_submodule(residual).register_forward_pre_hook(lambda m, i: found.append(i[0]))
    else:  # vision's blocks end without a norm
        layer.register_forward_hook(lambda m, i, o: found.append(o.end_of_block))
    out = model(**inputs(kind), output_teacher_layers=True)
    expected = found[0][:, 1:] if kind == "vision" else found[0]
    if kind == "vision" and tap in ("ffn", "self_attention"):  # with LayerScale, as in the original
        expected = expected * (layer.lambda_2 if tap == "ffn" else layer.lambda_1)
    torch.testing.assert_close(out.teacher_layers[-1], expected)


def test_configuration_that_cannot_pretrain_is_refused():
    with pytest.raises(ValueError, match="mask_time_prob"):
        build("audio", mask_time_prob=0.0)
    for value in (2, -0.5, float("nan")):
        with pytest.raises(ValueError, match=f"drop_path_rate = {value}: must be at least 0 and below 1"):
            build("vision", drop_path_rate=value)
    for name, value in (("image_size", [4, 8]), ("patch_size", [2, 4])):
        with pytest.raises(ValueError, match=f"{name} = .* squares only. Use one number, or model_type data2vec2"):
            config = vision_config()
            setattr(config, name, value)
            Data2VecVisionForPreTraining(config)
    with pytest.raises(ValueError, match="hidden_dropout_prob = inf"):
        build("text", hidden_dropout_prob=float("inf"))
    with pytest.raises(ValueError, match="layerdrop = 1"):
        build("audio", layerdrop=1.0)
    with pytest.raises(ValueError, match="mask_token_id = 53"):
        build("text", mask_token_id=53)
    with pytest.raises(ValueError, match="top_k_layers = 4"):
        build("audio", objective={"top_k_layers": 4})
    with pytest.raises(ValueError, match="ema_scope"):
        build("text", objective={"ema_scope": "encoder"})


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "cls", [Data2VecAudioModel, Data2VecAudioForCTC, Data2VecAudioForSequenceClassification, "of pretraining"]
)
def test_outputs_of_speech_do_not_depend_on_padding_on_request(cls, channels_last, implementation):
    """Each row of a batch against the row alone, on every real frame; a stock encoder fails this by far."""
    torch.manual_seed(0)
    config = audio_config(num_labels=3)
    config._attn_implementation = implementation
    if of_pretraining := isinstance(cls, str):
        cls = lambda config: Data2VecAudioForPreTraining(config).base_model  # noqa: E731
    model = cls(config)
    set_channels_last(model.eval(), channels_last)
    clips = [torch.randn(samples) for samples in (163, 307, 20, 299)]  # of 15, 29, 1 and 28 frames
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    batch[2, 20:] = 9.0  # whatever padding holds
    mask = torch.tensor([[int(i < len(clip)) for i in range(307)] for clip in clips])

    @torch.no_grad()
    def difference():
        worst = 0.0
        for row, padded in zip(clips, model(batch, attention_mask=mask)[0], strict=True):
            alone = model(row.unsqueeze(0))[0][0]
            padded = padded[: len(alone)] if alone.dim() == 2 else padded
            worst = max(worst, float((alone - padded).abs().max()))
        return worst

    alone = model(clips[1].unsqueeze(0))[0]
    assert difference() < 1e-5 if of_pretraining else difference() > 1e-3
    assert make_padding_independent(model) is model and difference() < 1e-5
    torch.testing.assert_close(model(clips[1].unsqueeze(0))[0], alone)


def test_the_encoder_of_pretraining_reads_padding_as_its_objective_says():
    clip, mask = torch.randn(1, 307), (torch.arange(307) < 163).long()[None]
    for original, spread in ((True, 1e-3), (False, 0.0)):
        torch.manual_seed(0)
        objective = {**Data2VecAudioForPreTraining.default_objective, "top_k_layers": 1, "original_padding": original}
        encoder = Data2VecAudioForPreTraining(audio_config(objective=objective)).base_model.eval()
        with torch.no_grad():
            alone = encoder(clip[:, :163])[0]
            padded = encoder(clip, attention_mask=mask)[0][:, : alone.shape[1]]
        difference = float((alone - padded).abs().max())
        assert difference > spread if original else difference < 1e-5


def test_padding_independence_where_there_is_no_such_encoder_is_refused():
    with pytest.raises(ValueError, match="Data2VecTextModel holds no Data2VecAudioModel"):
        make_padding_independent(Data2VecTextModel(text_config()))
    with pytest.raises(ValueError, match="add_adapter"):
        make_padding_independent(Data2VecAudioModel(audio_config(add_adapter=True)))
