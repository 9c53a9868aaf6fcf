"""IRecGAN (Bai, Guan, Wang, NeurIPS 2019): recommendation policies from logs, with native sampling and rollout kernels.

Names are imported on first use, so that `import irecgan_ext` stays fast.
"""

from __future__ import annotations

import importlib
from pkgutil import extend_path
from typing import Any

# Run inside a checkout, Python imports this folder; the compiled module lies in the installed package of the same name.
__path__ = extend_path(__path__, __name__)

_EXPORTS = {
    "Trajectories": "types",
    "PAD": "types",
    "BOS": "types",
    "END": "types",
    "build_info": "ops",
    "gumbel_topk": "ops",
    "CatalogueIndex": "catalogue",
    "UserModel": "models",
    "Agent": "models",
    "Discriminator": "models",
}
_MODULES = (
    "types",
    "ops",
    "catalogue",
    "reference",
    "models",
    "losses",
    "rollout",
    "data",
    "simulators",
    "training",
    "evaluation",
)

__version__ = "0.1.0"
__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
