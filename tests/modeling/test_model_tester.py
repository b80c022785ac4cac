"""Every class of ours under `transformers`' own `ModelTesterMixin` (slow; see [`model_tester`])."""

import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from data2vec.modeling.modeling_pretraining import PreTrainingMixin
from tests.modeling import tiny_data2vec2
from tests.modeling.model_tester import load_mixin
from tests.modeling.test_data2vec import KINDS


pytest.importorskip("parameterized", reason="ModelTesterMixin needs the package parameterized")
pytestmark = pytest.mark.slow

Mixin = load_mixin()
ROWS = 3
IMAGE_LIKE = ("vision", "eat")  # with a CLS token
TIME = {"audio": 30, "text": 19, "vision": 15, "eat": 15}  # of tokens
# how a test of the mixin begins -> why it does not apply
NO_STATES = "pretraining returns what the objective compares; the encoder's own class returns states and attentions"
SKIPPED_IN_PRETRAINING = {
    "test_attention_outputs": NO_STATES,
    "test_hidden_states_output": NO_STATES,
    "test_retain_grad_hidden_states_attentions": NO_STATES,
    "test_capture_outputs_decorator": NO_STATES,
    "test_can_capture_specific_layers_hidden_states": NO_STATES,
    "test_eager_matches_sdpa_inference": NO_STATES + "; test_every_model compares sdpa with eager attention",
    "test_model_outputs_equivalence": NO_STATES + "; test_every_model compares tuples",
    "test_model_weights_reload_no_missing_tied_weights": "a teacher that is missing is not: it starts as the student",
    "test_inputs_embeds": "the teacher reads what the student's embeddings are made of",
}
SKIPPED_OUTSIDE_TEXT = {
    "test_model_get_set_embeddings": "samples, frames and pixels are not looked up in an nn.Embedding",
    "test_resize_tokens_embeddings": "samples, frames and pixels have no vocabulary",
    "test_resize_embeddings_untied": "samples, frames and pixels have no vocabulary",
}


class TinyModel:
    """What the mixin asks for: a tiny configuration and a batch."""

    batch_size = ROWS
    is_training = True
    num_hidden_layers = 2

    def __init__(self, kind: str, family: str, model_class: Any):
        self.kind, self.family, self.model_class = kind, family, model_class
        config = self.get_config()
        self.hidden_size, self.num_attention_heads = config.hidden_size, config.num_attention_heads
        self.seq_length = TIME[kind] + (kind in IMAGE_LIKE)

    def get_config(self) -> Any:
        if self.family == "2.0":
            extra = int(self.kind in IMAGE_LIKE)
            fields: dict[str, Any] = {"num_hidden_layers": 2, "num_prenet_layers": 0, "num_extra_tokens": extra}
            if self.kind == "audio":  # no loss of tokens that are not there
                fields["objective"] = tiny_data2vec2.audio_config().objective
            return tiny_data2vec2.config_of(self.model_class, **fields)
        config = KINDS[self.kind][2]()
        config.num_hidden_layers, config.mask_token_id = 2, 3
        if self.kind == "vision":
            config.image_size = (12, 20)
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Tensor]]:
        return self.get_config(), tiny_data2vec2.inputs(self.kind, padded=self.kind != "vision")


def labels_of(model_class: type, rows: int, time: int) -> dict[str, Tensor]:
    name = model_class.__name__
    if "QuestionAnswering" in name:
        zeros = torch.zeros(rows, dtype=torch.long)
        return {"start_positions": zeros, "end_positions": zeros}
    if "Token" in name or "Frame" in name:
        return {"labels": torch.zeros(rows, time, dtype=torch.long)}
    if "CTC" in name:
        return {"labels": torch.ones(rows, 3, dtype=torch.long)}
    return {"labels": torch.zeros(rows, dtype=torch.long)} if "Classification" in name else {}


class OurTests(Mixin):
    kind: ClassVar[str]
    family: ClassVar[str]
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = TinyModel(self.kind, self.family, self.all_model_classes[0])
        reasons = SKIPPED_IN_PRETRAINING if issubclass(self.all_model_classes[0], PreTrainingMixin) else {}
        reasons = reasons | ({} if self.kind == "text" else SKIPPED_OUTSIDE_TEXT)
        for test, reason in reasons.items():
            if self._testMethodName.startswith(test):
                self.skipTest(reason)

    def test_training(self) -> None:
        with self.classes_with_loss():
            super().test_training()

    def check_training_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        with self.classes_with_loss():
            super().check_training_gradient_checkpointing(*args, **kwargs)

    @contextmanager
    def classes_with_loss(self) -> Iterator[None]:
        """The mixin leaves out encoders alone by their names, ours it does not know."""
        self.all_model_classes = [c for c in type(self).all_model_classes if not c.__name__.endswith("Model")]
        yield
        del self.all_model_classes

    def _prepare_for_class(self, inputs: dict[str, Any], model_class: Any, return_labels: bool = False) -> Any:
        inputs, time = super()._prepare_for_class(inputs, model_class, return_labels), TIME[self.kind]
        if issubclass(model_class, PreTrainingMixin):
            views = () if self.family == "1" else (2,)
            generator = torch.Generator().manual_seed(0)
            inputs["masked"] = (torch.rand(ROWS, *views, time, generator=generator) < 0.5) & (torch.arange(time) > 0)
            if self.family == "2.0":
                inputs["mask_noise"] = torch.randn(ROWS, 2, time, self.model_tester.hidden_size, generator=generator)
        elif return_labels:
            inputs |= labels_of(model_class, ROWS, time)
        return inputs


def cases() -> dict[tuple[str, str, str, bool], tuple[type, ...]]:
    """(name, family, kind, pretraining) -> classes of one configuration."""
    groups = {(f"Data2Vec1{kind.title()}", "1", kind, True): (cls,) for kind, (cls, _, _) in KINDS.items()}
    for model_class, kind in tiny_data2vec2.MODELS.items():
        if kind not in TIME:
            continue
        name = model_class.config_class.__name__.removesuffix("Config")
        key = (name, "2.0", kind, issubclass(model_class, PreTrainingMixin))
        groups[key] = (*groups.get(key, ()), model_class)
    return groups


for (called, family, kind, pretraining), classes in cases().items():
    name = f"Test{called}{'ForPreTraining' if pretraining else ''}"
    members = {"kind": kind, "family": family, "all_model_classes": classes, "__module__": __name__}
    globals()[name] = type(name, (OurTests, unittest.TestCase), members)
