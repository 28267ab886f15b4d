"""The only place that imports torchvision.

Its wheels are built for CUDA: beside a CPU-only torch their compiled part does not load, and importing torchvision
fails because the operators that it wants to extend do not exist. Datasets and transforms need none of them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from torch import library as operators

MISSING = "operator torchvision::nms does not exist"
_declared: list[Any] = []  # the declarations live as long as this list


def torchvision() -> ModuleType:
    """torchvision with its datasets; the missing schemas are declared only where the import asks for them.

    Declaring them first would abort the process where the compiled part does match.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = operators.Library  # without types of its own
        missing = library("torchvision", "FRAGMENT")
        missing.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        missing.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(missing)
    importlib.import_module("torchvision.datasets")
    return importlib.import_module("torchvision")
