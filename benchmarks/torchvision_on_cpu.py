"""Make torchvision's wheel of PyPI, which needs CUDA, load beside a build of torch for processors: import this first.

Its compiled operators stay away, and nothing here calls them: transforms and models need none. Without this,
`transformers` does not import either, once that wheel is there. Any other torchvision, or none, is left as it is.
"""

import sys
from importlib.util import find_spec

import torch


if find_spec("torchvision") is not None:
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        LIBRARY = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
