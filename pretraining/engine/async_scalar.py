"""Numbers that are read without stopping the device."""

from typing import Any

import torch
from torch import Tensor


class AsyncScalar:
    """A tensor on its way to the host: reading it waits for what made it, not for what was queued since.

    `.item()` would wait for all work of the device, which then stands still until the host has queued more.
    """

    def __init__(self, tensor: Tensor):
        on_gpu = tensor.device.type == "cuda"
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
        self._host.copy_(tensor, non_blocking=on_gpu)
        self._arrived = torch.cuda.Event() if on_gpu else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def tolist(self) -> Any:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()
