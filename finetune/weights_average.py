"""A moving average of the weights (`training.weights_ema_decay`), which is what is evaluated and saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


FILE = "weights_average.safetensors"


class WeightsAverage:
    """`average <- decay * average + (1 - decay) * weights`, from the first update's weights on."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)

    def update(self) -> None:
        self.averaged.update_parameters(self.model)

    def save(self, folder: str | Path) -> None:
        state = {name: tensor.contiguous().clone() for name, tensor in self.averaged.state_dict().items()}
        save_file(state, Path(folder) / FILE)

    def load(self, folder: str | Path) -> None:
        """Raises ValueError where the checkpoint holds no average."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{path} is missing: the checkpoint was made without training.weights_ema_decay.")
        self.averaged.load_state_dict(load_file(path))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the average's weights."""
        own = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.model.parameters(), own, strict=True):
                    parameter.copy_(value)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        for parameter, value in zip(self.model.parameters(), self.averaged.module.parameters(), strict=True):
            parameter.copy_(value)
