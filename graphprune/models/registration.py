"""Lets stock Auto classes load ragged checkpoints, without importing `transformers` before it is needed.

``import graphprune`` puts a finder before the others. It finds one module, that of `AutoConfig`, lets Python load it as
ever, and adds a configuration to its table as soon as it is there. The model's class is registered by the first such
configuration that is read.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

TABLE = "transformers.models.auto.configuration_auto"


class _Loader(SourceFileLoader):
    """Loads the module, then registers."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _register()


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Any,  # a sequence, or what packages without a folder of their own have instead
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != TABLE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def _register() -> None:
    import_module("graphprune.models.ragged_config").register()


def register() -> None:
    """Registers ragged checkpoints with `AutoConfig` now, if it is loaded, or as soon as it is."""
    if TABLE in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())
