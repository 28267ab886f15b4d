"""The only place that imports torchvision.

Its wheels are built for CUDA. With a CPU-only torch their compiled part does not load, and the import of torchvision
fails because the operators that it extends do not exist. Datasets, transforms and most networks need none of them.
`install`, which `import sparring` calls, prepares later imports by other code: a user's own file, or timm.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

NAME = "torchvision"
MISSING = "operator torchvision::nms does not exist"
_declared: list[Any] = []  # the declarations live as long as this list


def torchvision() -> ModuleType:
    """torchvision with its datasets. The missing operators are declared only if the import fails without them.

    To declare them always would abort the process if the compiled part does load.
    """
    try:
        importlib.import_module(NAME)
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
            del sys.modules[name]
        from torch import library as operators

        library: Any = operators.Library  # without types of its own
        missing = library(NAME, "FRAGMENT")
        missing.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        missing.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(missing)
    importlib.import_module(f"{NAME}.datasets")
    return importlib.import_module(NAME)


def install() -> None:
    """Make the first `import torchvision` of this process call `torchvision`; nothing is imported now."""
    if NAME not in sys.modules and not any(isinstance(finder, _Prepared) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Prepared())


class _Prepared(MetaPathFinder):
    """On the first import of torchvision: removes itself, imports torchvision as above, and returns it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != NAME:
            return None
        sys.meta_path.remove(self)
        return spec_from_loader(NAME, _Loaded(torchvision()), is_package=True)


class _Loaded(Loader):
    """Loads a module that is imported already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
