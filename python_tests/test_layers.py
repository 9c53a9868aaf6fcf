"""The package's layers: imports point down, and `import irecgan_ext` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import irecgan_ext

PACKAGE = Path(irecgan_ext.__file__).parent
NAME = "irecgan_ext"

COMMON = {"errors", "files", "types", "packed"}
# Part of the package -> the parts that it may import, besides itself.
LAYERS = {
    "errors": set(),
    "files": set(),
    "types": set(),
    "plackett_luce": set(),
    "packed": {"types"},
    "reference": set(),
    "registration": set(),
    "ops": {"_C", "reference", "registration"},
    "grouping": set(),
    "catalogue": {"grouping", "ops"},
    "models": {"ops", *COMMON},
    "losses": {"models", "ops", "plackett_luce", *COMMON},
    "estimators": {"losses", "models", "ops", *COMMON},
    "serving": {"catalogue", "models", "ops", *COMMON},
    "rollout": {"models", "ops", *COMMON},
    "data": COMMON,
    "simulators": {"plackett_luce", *COMMON},
}
BELOW = {"estimators", "losses", "models", "ops", "plackett_luce", "data", "simulators", *COMMON}
LAYERS["evaluation"] = {"rollout", *BELOW}
LAYERS["training"] = {"evaluation", *LAYERS["evaluation"]}
LAYERS["cli"] = COMMON
COMMANDS = {"prepare", "train", "simulate", "evaluate", "recommend", "export", "off_policy", "experiments", "plots"}
for command in COMMANDS:
    LAYERS[command] = {"cli", "training", "serving", *LAYERS["training"]}
for command in COMMANDS - {"plots"}:
    LAYERS[command].add("plots")


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def parts(path: str) -> tuple[str, ...]:
    """Dotted name of the module's package, without the leading irecgan_ext."""
    return Path(path).parent.parts


def imported(source: str, package: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Every module that `source`, in `package`, imports anywhere, as the parts of its name; relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (NAME, *package)[: len(package) + 2 - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            found |= {(*base, alias.name) for alias in node.names}
    return found


def own_parts(source: str, package: tuple[str, ...]) -> set[str]:
    """The parts of the package that `source` imports."""
    return {name[1] for name in imported(source, package) if name[0] == NAME and len(name) > 1}


@pytest.mark.parametrize("path", modules())
def test_imports_point_down(path):
    part = Path(path).parts[0].removesuffix(".py")
    assert part in LAYERS, f"{path} belongs to no layer: name it in this test"
    upward = own_parts((PACKAGE / path).read_text(), parts(path)) - {part} - LAYERS[part]
    assert not upward, f"{path} imports {sorted(upward)}"


@pytest.mark.parametrize("path", modules())
def test_heavy_libraries_stay_where_they_belong(path):
    names = {name[0] for name in imported((PACKAGE / path).read_text(), parts(path))} - {NAME}
    part = Path(path).parts[0].removesuffix(".py")
    assert "gymnasium" not in names or path == "simulators/environment.py"
    assert "matplotlib" not in names or part in ("plots", "experiments")
    assert not names & {"pyarrow", "polars"} or part == "data"
    if part in (
        "reference",
        "ops",
        "grouping",
        "catalogue",
        "models",
        "losses",
        "estimators",
        "plackett_luce",
        "rollout",
        "types",
    ):
        assert names <= {"torch", "typing", *sys.stdlib_module_names, "__future__"}, names


def test_the_layers_have_no_cycle():
    below = {part: set(allowed) for part, allowed in LAYERS.items()}
    below["_C"] = set()
    while below:
        lowest = {part for part, allowed in below.items() if not allowed}
        assert lowest, f"a cycle among {sorted(below)}"
        below = {part: allowed - lowest for part, allowed in below.items() if part not in lowest}


def test_imports_are_seen_in_every_form():
    source = """
import irecgan_ext.training.config
from irecgan_ext import ops
from irecgan_ext.losses import entropy
from ..models import Agent
from .mdp import MDP
from .. import rollout
def late():
    from irecgan_ext.data.sessions import read_sessions
"""
    expected = {"training", "ops", "losses", "models", "simulators", "rollout", "data"}
    assert own_parts(source, ("simulators",)) == expected


LIGHT_SCRIPT = """
import sys, time
begin = time.perf_counter()
import irecgan_ext
taken = time.perf_counter() - begin
heavy = {"torch", "matplotlib", "numpy", "gymnasium", "pyarrow", "polars", "tensorboard", "tyro"} & set(sys.modules)
print(taken, *sorted(heavy))
"""


def test_importing_the_package_is_light():
    done = subprocess.run([sys.executable, "-c", LIGHT_SCRIPT], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    taken, *heavy = done.stdout.split()
    assert not heavy
    assert float(taken) < 0.5


def test_every_exported_name_exists():
    for name in dir(irecgan_ext):
        assert getattr(irecgan_ext, name) is not None
    with pytest.raises(AttributeError, match="^module 'irecgan_ext' has no attribute 'nothing'$"):
        irecgan_ext.nothing  # noqa: B018
