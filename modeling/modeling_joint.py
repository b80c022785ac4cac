"""One trunk of blocks for several modalities: encoder and pretraining.

Each modality is a whole model of its own class, whose blocks are the same modules as those of the others; embeddings,
positions, prenet, extra tokens, masks, decoder and loss are its own. A batch is of one modality, and its step is that
of the modality's own model.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from itertools import chain
from typing import Any

from torch import nn
from transformers import MODEL_FOR_PRETRAINING_MAPPING, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from .configuration_joint import JointConfig
from .configuration_objective import EmaSchedule
from .ema import Teacher, ema_update
from .modeling_data2vec2 import Data2Vec2Model, Data2Vec2PreTrainedModel
from .modeling_pretraining import Data2VecForPreTrainingOutput, PreTrainingMixin
from .modeling_student_teacher import Data2Vec2ForPreTraining


def pretraining_class(config: PreTrainedConfig) -> type[Data2Vec2ForPreTraining]:
    """The pretraining model of a modality. In a folder that carries the code the Auto classes do not know it."""
    found: Any
    if type(config) in MODEL_FOR_PRETRAINING_MAPPING:
        found = MODEL_FOR_PRETRAINING_MAPPING[type(config)]
    else:
        module, name = config.remote_classes["AutoModelForPreTraining"].split(".")
        found = getattr(import_module(f".{module}", __package__), name)
    return found


class SharedOnce(nn.Module):
    """A module whose state dict holds what its parts share once, under the first of its names."""

    def other_names(self) -> dict[str, str]:
        """Further name of a parameter or buffer -> its first name."""
        first: dict[int, str] = {}
        every = chain(self.named_parameters(remove_duplicate=False), self.named_buffers(remove_duplicate=False))
        named = [(name, first.setdefault(id(tensor), name)) for name, tensor in every]
        return {name: of_first for name, of_first in named if name != of_first}

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().state_dict(*args, prefix=prefix, **kwargs)
        for name in self.other_names():
            state.pop(prefix + name, None)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        more = {name: state_dict[first] for name, first in self.other_names().items() if first in state_dict}
        return super().load_state_dict({**state_dict, **more}, *args, **kwargs)


def share(parts: Mapping[str, nn.Module], paths: Mapping[str, Iterable[str]]) -> nn.ModuleDict:
    """Put the first part's modules of these paths into the others, too; returns them by the last word of their path.

    Args:
        paths: of each part, `"encoder.layers"`; a part that has no such module is passed over.

    Raises:
        ValueError: a part's module has other tensors.
    """
    shared = nn.ModuleDict()
    for name, part in parts.items():
        modules = dict(part.named_modules(remove_duplicate=False))
        for path in paths[name]:
            holder, _, last = path.rpartition(".")
            if path not in modules:
                continue
            if last not in shared:
                shared[last] = modules[path]
            shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (shared[last], modules[path])]
            if shapes[0] != shapes[1]:
                raise ValueError(f"modalities.{name}: its {path} has other tensors than the first modality's.")
            setattr(modules[holder], last, shared[last])
    return shared


def share_front_ends(parts: Mapping[str, nn.Module], groups: Sequence[list[str]]) -> nn.ModuleDict:
    """Put a group's first part's modules, but for the blocks, into the others; returns them by that part's name.

    Parts without blocks, teachers that are none or another model, stay as they are.
    """
    shared = nn.ModuleDict()
    for group in groups:
        members = {name: parts[name] for name in group if hasattr(parts.get(name), "encoder")}
        if members:
            first, part = next(iter(members.items()))
            own = [name for name, _ in part.named_children() if name != "encoder"]
            own += [
                f"encoder.{name}" for name, _ in part.get_submodule("encoder").named_children() if name != "layers"
            ]
            shared[first] = share(members, dict.fromkeys(members, own))
    return shared


class JointTeacher(SharedOnce, Teacher):
    """The teachers of all modalities. Those that move share what their students do, and so do those that are frozen.

    Frozen blocks are saved under the name of their first teacher. Teachers are sorted, as a saved configuration is, so
    that it is the same one when the model is read again.
    """

    def __init__(self, models: Mapping[str, Data2Vec2ForPreTraining], groups: Sequence[list[str]] = ()):
        super().__init__()
        paths = {name: model.base_class.shared_modules for name, model in models.items()}
        moving, frozen = (
            {name: m.teacher for name, m in models.items() if (m.objective.ema_scope == "frozen") == still}
            for still in (False, True)
        )
        self.trunk = share(moving, paths)
        share(frozen, paths)
        for teachers in (moving, frozen):
            share_front_ends(teachers, groups)
        self.encoders = nn.ModuleDict({name: models[name].teacher for name in sorted(models)})


class JointPreTrainedModel(Data2Vec2PreTrainedModel):
    """What both models have."""

    config: JointConfig
    base_model_prefix = "joint"
    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^modalities\."]

    def named(self, models: Any, modality: str | None, inputs: Iterable[str]) -> str:
        """The modality whose main input is among these, or the one that is named.

        Raises:
            ValueError: none is found, or several.
        """
        if modality is not None:
            if modality not in models:
                raise ValueError(f"modality = {modality!r}: must be one of {', '.join(models)}.")
            return modality
        inputs = list(inputs)
        found = [name for name, model in models.items() if model.main_input_name in inputs]
        if len(found) != 1:
            expected = ", ".join(f"{name}: {model.main_input_name}" for name, model in models.items())
            raise ValueError(
                f"The inputs {', '.join(inputs)} are those of {' and '.join(found) or 'no modality'}: say "
                f"modality=..., or pass the inputs of one ({expected})."
            )
        return found[0]


class JointModel(SharedOnce, JointPreTrainedModel):
    """The encoders of several modalities on one trunk.

    `JointModel.from_pretrained(folder, modality="audio")` is the encoder of one modality, of its own class.
    """

    _auto_class = "AutoModel"
    encoders: Any  # nn.ModuleDict, by modality

    def __init__(self, config: JointConfig, encoders: Mapping[str, Data2Vec2Model] | None = None):
        super().__init__(config)
        if encoders is None:
            configs = {name: config.of(name) for name in config.modalities or {}}
            encoders = {name: pretraining_class(own).base_class(own) for name, own in configs.items()}
        if not encoders:
            raise ValueError("modalities is empty: name at least one, with its model_type.")
        self.trunk = share(encoders, {name: encoder.shared_modules for name, encoder in encoders.items()})
        self.front_ends = share_front_ends(encoders, config.shared_front_ends or [])
        self.encoders = nn.ModuleDict(encoders)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The trunk starts as that of the first modality would."""
        next(iter(self.encoders.values()))._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """Those of the first modality, where a library asks for one."""
        embeddings: nn.Module = next(iter(self.encoders.values())).get_input_embeddings()
        return embeddings

    @classmethod
    def from_pretrained(cls, *args: Any, modality: str | None = None, **kwargs: Any) -> Any:
        """As in `transformers`; with `modality` the encoder of that one alone.

        Raises:
            ValueError: there is no such modality.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        if modality is None:
            return loaded
        model, *info = loaded if isinstance(loaded, tuple) else (loaded,)
        encoder = model.encoders[model.named(model.encoders, modality, ())]
        encoder.config.name_or_path = model.config.name_or_path
        return (encoder, *info) if info else encoder

    def forward(self, modality: str | None = None, **inputs: Any) -> BaseModelOutput:
        """
        Args:
            modality: whose inputs these are; found by their names if `None`.
            inputs: of the modality's own encoder.
        """
        return self.encoders[self.named(self.encoders, modality, inputs)](**inputs)


class JointForPreTraining(SharedOnce, PreTrainingMixin, JointPreTrainedModel):
    """Students, teachers and decoders of several modalities on one trunk.

    `objective` is the teacher's schedule; what else a modality has of an objective is in its own configuration.
    """

    _auto_class = "AutoModelForPreTraining"
    objective: EmaSchedule  # type: ignore[assignment]
    teacher: JointTeacher
    modalities: Any  # nn.ModuleDict

    def __init__(self, config: JointConfig):
        super().__init__(config)
        self.objective = EmaSchedule.from_dict(config.objective or {})
        models: dict[str, Any] = {}
        for name in config.modalities or {}:
            own = config.of(name)
            models[name] = pretraining_class(own)(own)
        # named first, so that what they share is saved under these names
        self.joint = JointModel(config, {name: model.base_model for name, model in models.items()})
        self.teacher = JointTeacher(models, config.shared_front_ends or [])
        self.modalities = nn.ModuleDict(models)
        self.post_init()
        self._keys_to_ignore_on_load_unexpected = []
        self.post_init_teacher()

    @property
    def parts(self) -> dict[str, PreTrainingMixin]:
        return dict(self.modalities.items())

    def update_teacher(self, decay: float, **kwargs: Any) -> None:
        """Move all teachers once, each by the scope of its objective; frozen ones stay."""
        moving = {n: m for n, m in self.modalities.items() if m.objective.ema_scope != "frozen"}
        scopes = [f"{n}.{prefix}" for n, m in moving.items() for prefix in m.ema_scopes[m.objective.ema_scope]]
        teachers = nn.ModuleDict({n: m.teacher for n, m in moving.items()})
        students = nn.ModuleDict({n: m.base_model for n, m in moving.items()})
        ema_update(teachers, students, decay, tuple(scopes), **kwargs)

    def floating_point_ops(self, input_dict: dict[str, Any], exclude_embeddings: bool = True) -> int:
        name = self.named(self.modalities, input_dict.get("modality"), input_dict)
        operations: int = self.modalities[name].floating_point_ops(input_dict, exclude_embeddings)
        return operations

    def forward(self, modality: str | None = None, **inputs: Any) -> Data2VecForPreTrainingOutput:
        """
        Args:
            modality: whose inputs these are; found by their names if `None`.
            inputs: of the modality's own pretraining model.
        """
        return self.modalities[self.named(self.modalities, modality, inputs)](**inputs)
