"""What `transformers` expects of a model, for every data2vec 2.0 class."""

import inspect
import json
import re
import subprocess

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, pipeline
from transformers.models.auto import modeling_auto
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from data2vec import modeling
from data2vec.modeling import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from tests.modeling import tiny_joint
from tests.modeling.tiny_data2vec2 import CONFIGS, MODELS, PRETRAINING, build, config_of, inputs, main_output
from tests.modeling.tiny_data2vec2 import PRETRAINERS as ALL_PRETRAINING
from tests.warm import warm_python


EVERY = pytest.mark.parametrize("model_class", MODELS, ids=lambda c: c.__name__)
ENCODERS = pytest.mark.parametrize(
    "model_class", [c for c in MODELS if c.__name__.endswith("Model")], ids=lambda c: c.__name__
)
PRETRAINERS = pytest.mark.parametrize("model_class", ALL_PRETRAINING, ids=lambda c: c.__name__)


def run(model, kind: str, padded: bool = False, **kwargs):
    torch.manual_seed(2)  # masks and noise of pretraining
    return model(**inputs(kind, padded and kind != "vision"), **kwargs)


def same(actual, expected, tolerance=0.0):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


# Saving and loading


@EVERY
def test_partial_checkpoint_keeps_what_it_has(model_class, tmp_path):
    """Weights that are there are not initialised again; the others and the constants are."""
    model = build(model_class)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    prefix = "" if model_class.__name__.endswith("Model") else f"{model_class.base_model_prefix}."
    lost = [f"{prefix}encoder.layers.1.attention.qkv.weight", f"{prefix}encoder.layers.1.attention_norm.weight"]
    lost += [name for name in (f"{prefix}encoder.extra_tokens", f"{prefix}encoder.alibi.scale") if name in tensors]
    save_file({n: t for n, t in tensors.items() if n not in lost}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(lost)
    state = loaded.state_dict()
    for name in tensors.keys() - set(lost):
        same(state[name], tensors[name])
    assert state[lost[0]].std().item() == pytest.approx(0.02, rel=0.1) and (state[lost[1]] == 1).all()
    for name, buffer in model.named_buffers():
        same(loaded.get_buffer(name), buffer)


@PRETRAINERS
def test_encoder_alone_starts_a_teacher_like_itself(model_class, tmp_path):
    model = build(model_class)
    model.save_encoder(tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and type(encoder) is model_class.base_class
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert all(name.startswith("decoder.") for name in info["missing_keys"]) and not info["unexpected_keys"]
    for name, tensor in loaded.teacher.state_dict().items():
        same(tensor, model.base_model.state_dict()[name])


@PRETRAINERS
def test_pretraining_checkpoint_opens_as_encoder(model_class, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    same(encoder.state_dict(), model.base_model.state_dict())


# Initialisation


@EVERY
def test_initialisation(model_class):
    torch.manual_seed(0)
    model = model_class(CONFIGS[MODELS[model_class]](initializer_range=0.1))
    weights = dict(model.named_parameters())
    qkv = torch.cat([w.flatten() for n, w in weights.items() if n.endswith("attention.qkv.weight")])
    assert qkv.std().item() == pytest.approx(0.1, rel=0.05)
    for name, weight in weights.items():
        if ("norm" in name and name.endswith("weight")) or name.endswith("alibi.scale"):
            assert (weight == 1).all(), name
        elif name.endswith("qkv.bias") or ("norm" in name and name.endswith("bias")):
            assert (weight == 0).all(), name
        else:
            assert weight.std() > 0 or name.endswith("bias") or "layer_weights" in name, name


def test_initialisation_of_what_is_not_a_transformer():
    """Standard deviations of the original's laws: normal, uniform between +-bound, for `bound` / sqrt(3)."""
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "num_attention_heads": 3, "conv_dim": (128, 64), "classifier_proj_size": 64}
    std = {}
    for kind, model_class in PRETRAINING.items():
        fields = shape if kind == "audio" else {"hidden_size": 96}
        for name, weight in model_class(CONFIGS[kind](**fields)).named_parameters():
            std[f"{kind}.{name.removeprefix(f'{model_class.base_model_prefix}.')}"] = weight.std().item()
    expected = {
        "audio.embeddings.first_conv.weight": (2 / 7) ** 0.5,  # He's normal law of 7 inputs
        "audio.embeddings.convs.0.weight": (2 / (3 * 128)) ** 0.5,
        "audio.embeddings.projection.weight": (3 * 64) ** -0.5,  # torch's default, not 0.02
        "audio.positions.layers.0.conv.weight": (3 * 4 * 16) ** -0.5,
        "audio.decoder.layers.0.conv.weight": (3 * 3 * 24) ** -0.5,
        "audio.decoder.projection.0.weight": (3 * 16) ** -0.5,
        "vision.embeddings.projection.weight": (2 / (96 + 48)) ** 0.5,  # Xavier's uniform law
        "vision.decoder.projection.0.weight": (3 * 16) ** -0.5,
        "text.decoder.projection.0.weight": 0.02,
        "text.embeddings.word_embeddings.weight": 0.02,
        "vision.encoder.extra_tokens": 1.0,
        "eat.embeddings.projection.weight": (2 / (96 + 8)) ** 0.5,
    }
    for name, value in expected.items():
        assert std[name] == pytest.approx(value, rel=0.2 if "extra" in name else 0.08), name


# Running


@EVERY
def test_is_deterministic(model_class):
    kind, model = MODELS[model_class], build(model_class)
    same(main_output(run(model, kind)), main_output(run(model, kind)))
    noisy = build(model_class, hidden_dropout=0.2, attention_dropout=0.2, layerdrop=0.2, drop_path_rate=0.3)
    same(main_output(run(noisy, kind)), main_output(run(model, kind)))
    first, again = main_output(run(noisy.train(), kind)), main_output(run(noisy, kind))
    same(first, again)  # the seed decides
    assert not torch.equal(first, main_output(run(model, kind)))


@EVERY
def test_hidden_states_and_attentions(model_class):
    kind = MODELS[model_class]
    model = build(model_class, attn_implementation="eager")
    if model_class in ALL_PRETRAINING:
        model = model.base_model
    flags = {"output_hidden_states": True, "output_attentions": True}
    output, plain = run(model, kind, **flags), run(model, kind)
    config = model.config
    blocks = config.num_prenet_layers + config.num_hidden_layers
    time = config.num_extra_tokens + {"audio": 30, "vision": 15, "text": 19, "eat": 15}[kind]
    assert [tuple(h.shape) for h in output.hidden_states] == [(3, time, 24)] * (blocks + 1)
    assert [tuple(a.shape) for a in output.attentions] == [(3, 3, time, time)] * blocks
    for attention in output.attentions:
        same(attention.sum(-1), torch.ones(3, 3, time), 1e-5)
    assert plain.hidden_states is None and plain.attentions is None
    same(main_output(plain), main_output(output))
    model.config.output_hidden_states = True
    assert run(model, kind).hidden_states is not None
    assert isinstance(run(model, kind, return_dict=False), tuple)


@ENCODERS
@pytest.mark.filterwarnings("ignore")
def test_flex_attention_equals_eager(model_class):
    """Not compiled, which takes a minute and is not ours."""
    kind = MODELS[model_class]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        flex = main_output(run(build(model_class, attn_implementation="flex_attention"), kind, padded=True))
        eager = main_output(run(build(model_class, attn_implementation="eager"), kind, padded=True))
    same(flex, eager, 1e-5)


def test_flash_attention_is_refused():
    with pytest.raises((ValueError, ImportError), match="[Ff]lash"):
        build(modeling.Data2Vec2AudioModel, attn_implementation="flash_attention_2")


@EVERY
def test_autocast(model_class):
    """In bf16 compute the bias of the attention is in bf16 too, and the loss is in fp32."""
    kind, model = MODELS[model_class], build(model_class).train()
    exact = main_output(run(model, kind))
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model, kind)
    same(main_output(output).float(), exact, 0.1)
    loss = output.loss if "loss" in output else main_output(output).float().square().sum()
    assert loss.dtype == torch.float32
    loss.backward()


# Auto classes


@EVERY
def test_auto_class_builds_it(model_class):
    config = config_of(model_class)
    names = [name for name, path in config.auto_map.items() if path.endswith("." + model_class.__name__)]
    assert names == [model_class._auto_class]
    assert type(getattr(modeling_auto, names[0]).from_config(config)) is model_class


def test_auto_map_names_every_class():
    named = {path.rsplit(".", 1)[1] for c in MODELS for path in config_of(c).auto_map.values()}
    public = {name for name in modeling.__all__ if name.startswith(("Data2Vec2", "Eat", "Emotion2vec"))}
    assert named == public
    for kind in CONFIGS:
        for path in CONFIGS[kind]().auto_map.values():
            module, name = path.rsplit(".", 1)
            assert inspect.getmodule(getattr(modeling, name)).__name__ == f"data2vec.modeling.{module}"


def test_text_pipeline(tmp_path):
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "the": 3, "teacher": 4, "sees": 5, "all": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"]
    )
    fast.save_pretrained(tmp_path)
    model = build(modeling.Data2Vec2TextModel)
    model.save_pretrained(tmp_path)
    features = pipeline("feature-extraction", model=str(tmp_path), device="cpu")("the teacher sees all")
    same(torch.tensor(features), model(torch.tensor([[3, 4, 5, 6]])).last_hidden_state.detach(), 1e-5)


def test_image_pipeline(tmp_path):
    from PIL import Image

    ViTImageProcessorPil(size={"height": 12, "width": 20}).save_pretrained(tmp_path)
    model = build(modeling.Data2Vec2VisionModel)
    model.save_pretrained(tmp_path)
    image = Image.new("RGB", (31, 17), (200, 100, 50))
    processor = ViTImageProcessorPil.from_pretrained(tmp_path)
    extract = pipeline("image-feature-extraction", model=str(tmp_path), image_processor=processor, device="cpu")
    expected = model(**processor(image, return_tensors="pt")).last_hidden_state.detach()
    same(torch.tensor(extract(image)), expected, 1e-5)


ELSEWHERE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "data2vec" or name.startswith("data2vec."):
            raise ImportError("this process has no data2vec")

sys.meta_path.insert(0, Refuse())
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
import transformers

for folder in sys.argv[1:]:
    inputs, answer = load_file(folder + "/inputs.safetensors"), {}
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    for name in config.auto_map:
        if name == "AutoConfig":
            continue
        auto = getattr(transformers, name)
        if name == "AutoFeatureExtractor":
            answer[name] = [type(auto.from_pretrained(folder, trust_remote_code=True)).__name__]
            continue
        model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
        answer[name] = [type(model).__name__, sorted(info["missing_keys"]), sorted(info["unexpected_keys"])]
        torch.manual_seed(2)
        with torch.no_grad():
            output = model.eval()(**inputs)
        if name == "AutoModelForPreTraining":
            answer["loss"] = output.loss.item()
            model.save_pretrained(folder + "/again")
    again = transformers.AutoModelForPreTraining.from_pretrained(folder + "/again", trust_remote_code=True)
    torch.manual_seed(2)
    answer["again"] = again.eval()(**inputs).loss.item()
    print(json.dumps(answer))
"""


def test_folder_works_where_the_package_is_not(tmp_path):
    folders = [tmp_path / model_class.__name__ for model_class in ALL_PRETRAINING]
    expected = []
    for folder, model_class in zip(folders, ALL_PRETRAINING, strict=True):
        kind, model = MODELS[model_class], build(model_class)
        model.save_pretrained(folder)
        if kind == "eat":
            modeling.EatFeatureExtractor().save_pretrained(folder)
        save_file(inputs(kind), folder / "inputs.safetensors")
        expected.append((model, run(model, kind).loss.item()))
    joint = modeling.JointForPreTraining(tiny_joint.joint_config()).eval()
    folders.append(tmp_path / "joint")
    joint.save_pretrained(folders[-1])
    save_file(inputs("audio"), folders[-1] / "inputs.safetensors")
    expected.append((joint, run(joint, "audio").loss.item()))
    command = [warm_python(), "-P", "-c", ELSEWHERE, *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    for (model, loss), answer in zip(expected, lines, strict=True):
        assert answer.pop("loss") == pytest.approx(loss, rel=1e-5)
        assert answer.pop("again") == pytest.approx(loss, rel=1e-5)
        classes = {name: path.rsplit(".", 1)[1] for name, path in model.config.auto_map.items()}
        assert {name: found[0] for name, found in answer.items()} | {"AutoConfig": classes["AutoConfig"]} == classes
        assert answer["AutoModel"][1:] == answer["AutoModelForPreTraining"][1:] == [[], []]


# Configurations


@pytest.mark.parametrize("config_class", [Data2Vec2AudioConfig, Data2Vec2VisionConfig, Data2Vec2TextConfig])
def test_default_is_a_valid_published_recipe(config_class, tmp_path):
    config = config_class()
    model_class = PRETRAINING[config.model_type.removeprefix("data2vec2-")]
    objective = modeling.ObjectiveConfig.from_dict(config.objective)
    model_class.check_objective(config, objective)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is config_class and loaded.objective == config.objective == objective.to_dict()


NAN, INF = float("nan"), float("inf")
REFUSED = [
    *[("vision", {"drop_path_rate": value}, f"drop_path_rate = {value}") for value in (2, 1, -0.1, NAN, INF)],
    *[("text", {"hidden_dropout": value}, f"hidden_dropout = {value}") for value in (1, NAN)],
    ("audio", {"mask_time_prob": 1.5}, "mask_time_prob = 1.5"),
    ("audio", {"conv_stride": (5, 0)}, "conv_stride = (5, 0)"),
    ("audio", {"num_conv_pos_embedding_groups": 0}, "num_conv_pos_embedding_groups = 0"),
    ("audio", {"num_conv_pos_embedding_groups": 7}, "num_conv_pos_embedding_groups = 7"),
    ("audio", {"ctc_loss_reduction": "max"}, "ctc_loss_reduction = 'max'"),
    ("audio", {"pad_token_id": 11}, "pad_token_id = 11"),
    ("audio", {"num_attention_heads": 0}, "num_attention_heads = 0"),
    ("vision", {"image_size": (12, 20, 4)}, "image_size = (12, 20, 4)"),
    ("vision", {"patch_size": 0}, "patch_size = 0"),
    ("eat", {"patch_size": 0}, "patch_size = 0"),
    ("eat", {"num_mel_bins": 0}, "num_mel_bins = 0"),
    ("vision", {"patch_size": (4, 4, 4)}, "patch_size = (4, 4, 4)"),
    ("vision", {"num_extra_tokens": 0, "use_mean_pooling": False}, "num_extra_tokens = 0"),
    ("text", {"initializer_range": INF}, "initializer_range = inf"),
    ("text", {"layer_norm_eps": NAN}, "layer_norm_eps = nan"),
    ("text", {"pad_token_id": -1}, "pad_token_id = -1"),
    ("text", {"pad_token_id": 22}, "pad_token_id = 22"),
    ("audio", {"num_attention_heads": 5}, "num_attention_heads = 5"),
    ("audio", {"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ("audio", {"conv_dim": (4, 5, 6)}, "conv_dim"),
    ("audio", {"hidden_size": "24"}, "hidden_size"),
    ("audio", {"norm_affine": False}, "norm_affine = False"),
    ("audio", {"learned_alibi_scale_per_head": False}, "learned_alibi_scale_per_head = False"),
    ("audio", {"extractor_mode": "default"}, "extractor_mode = 'default'"),
    ("vision", {"use_alibi_encoder": True}, "use_alibi_encoder = True"),
    ("vision", {"recon_loss": 0.1}, "recon_loss = 0.1"),
    ("vision", {"fixed_positions": False}, "fixed_positions = False"),
    ("vision", {"image_size": (12, 21)}, "image_size"),
    ("vision", {"hidden_size": 27, "num_attention_heads": 9}, "hidden_size = 27"),
    ("text", {"num_prenet_layers": 1}, "num_prenet_layers = 1"),
    ("text", {"num_extra_tokens": 1}, "num_extra_tokens = 1"),
    ("text", {"learned_pos": False}, "learned_pos = False"),
    ("text", {"objective": {"masking": {"method": "random", "prob": 0.5}, "top_layers": 2}}, "'top_k_layers'"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_configuration_refuses(kind, fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=re.escape(message)):
        CONFIGS[kind](**fields)
