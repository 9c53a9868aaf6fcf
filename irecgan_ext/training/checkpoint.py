"""Checkpoints: one safetensors file each, its JSON state and a checksum in the header. Nothing is pickled.

A directory holds numbered checkpoints (`step-00000012.safetensors`, of which the newest few are kept) and named ones
(`best.safetensors`, `final.safetensors`, which the next one of that name replaces). A file appears under its name only
when it is complete and on disk, so a run that is killed at any moment leaves the checkpoint before it intact.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from irecgan_ext.errors import CheckpointError
from irecgan_ext.files import TEMPORARY_SUFFIX, atomic_write, reason, sync_directory

__all__ = [
    "CheckpointError",
    "check_writable",
    "checkpoint_path",
    "flatten_state",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "unflatten_state",
]

FORMAT = "irecgan_ext checkpoint 1"
_NUMBERED = re.compile(r"step-(\d{8,})\.safetensors")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TENSOR, _PAIRS, _TUPLE = "$tensor", "$pairs", "$tuple"  # JSON keys that stand for what JSON lacks


def checkpoint_path(directory: str | Path, name: int | str) -> Path:
    """The file of checkpoint `name`: a step number, or a name such as `best`.

    Raises:
        ValueError: a negative step, or a name with characters other than letters, digits, `.`, `_` and `-`.
    """
    if isinstance(name, int):
        if name < 0:
            raise ValueError(f"step must be at least 0, got {name}")
        return Path(directory) / f"step-{name:08d}.safetensors"
    path = Path(directory) / f"{name}.safetensors"
    if not _NAME.fullmatch(name) or _NUMBERED.fullmatch(path.name):
        raise ValueError(
            f"name must consist of letters, digits, '.', '_' and '-', and not be step-NUMBER, got {name!r}"
        )
    return path


def save_checkpoint(
    directory: str | Path, name: int | str, tensors: Mapping[str, Tensor], state: Any, *, keep: int = 2
) -> Path:
    """Write a checkpoint, and remove numbered ones but the newest `keep` and what killed runs left half-written.

    Args:
        directory: created if it is missing.
        name: a step number (the checkpoint takes part in the rotation) or a name (it stays until replaced).
        tensors: any dtypes, shapes and devices; copied to the CPU.
        state: JSON-able; see `flatten_state` for nested states that hold tensors.
        keep: numbered checkpoints kept, at least 1.

    Returns:
        The file written.

    Raises:
        CheckpointError: the directory cannot be written, the disk is full, or the directory holds a later step than
            `name`. The checkpoints that were there are intact.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    path = checkpoint_path(directory, name)
    values = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    text = json.dumps(state)
    header = {"format": FORMAT, "state": text, "sha256": _digest(values, text)}
    with _reported(path, "cannot write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        if isinstance(name, int):
            _refuse_older(path.parent, name)
        with atomic_write(path) as stream:
            stream.write(safetensors.torch.save(values, header))
        _rotate(path.parent, keep)
    return path


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], Any]:
    """Read a checkpoint and verify its checksum.

    Args:
        path: a file, as given by `save_checkpoint`, `latest_checkpoint` or `checkpoint_path`.

    Returns:
        tensors (on the CPU) and state, as given to `save_checkpoint`.

    Raises:
        CheckpointError: the file is missing, damaged or not a checkpoint of this package.
    """
    with _reported(path, "cannot read"):
        with open(path, "rb"):  # names a missing or unreadable file in the system's words
            pass
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                names = file.keys()
                tensors = {key: file.get_tensor(key).clone() for key in names}
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path}: damaged or truncated checkpoint: {reason(error)}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this package (format must be {FORMAT!r})")
    text = header.get("state", "")
    if header.get("sha256") != _digest(tensors, text):
        raise CheckpointError(f"{path}: checksum does not match, the checkpoint is damaged")
    return tensors, json.loads(text)


def latest_checkpoint(directory: str | Path) -> Path | None:
    """The numbered checkpoint of the highest step, or None where there is none. Half-written files never count."""
    steps = _steps(Path(directory))
    return steps[max(steps)] if steps else None


def check_writable(directory: str | Path, bytes_needed: int) -> None:
    """Create `directory` and see that a file of `bytes_needed` bytes can be written there, before hours are spent.

    Raises:
        CheckpointError: one line: the directory cannot be created or written, or its disk has too little space.
    """
    directory = Path(directory)
    probe = directory / f".probe-{os.getpid()}{TEMPORARY_SUFFIX}"
    with _reported(directory, "cannot write"):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(directory).free
    if free < bytes_needed:
        raise CheckpointError(f"{directory}: needs {bytes_needed / 1e6:.1f} MB of free space, has {free / 1e6:.1f} MB")


def flatten_state(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a nested state into its tensors and a JSON-able rest, without loss.

    Args:
        state: nested dicts (keys str, int, float, bool or None), lists and tuples of tensors, numbers, strings, bools
            and None: `state_dict()` of a module or optimiser, or a dict of several of them.

    Returns:
        tensors by their path (`optimiser/state/0/exp_avg`) and the rest, in which each tensor is named by its path.

    Raises:
        TypeError: a leaf or key of another type.
        ValueError: two tensors have the same path, since a key contains `/`.
    """
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            if path in tensors:
                raise ValueError(f"two tensors of the state have the same path {path!r}")
            tensors[path] = value
            return {_TENSOR: path}
        if isinstance(value, Mapping):
            packed = [(key, pack(item, f"{path}/{key}" if path else str(key))) for key, item in value.items()]
            if all(type(key) is str and not key.startswith("$") for key, _ in packed):
                return dict(packed)
            for key, _ in packed:
                _require_scalar(key, f"key of {path or 'the state'}")
            return {_PAIRS: [list(pair) for pair in packed]}
        if isinstance(value, (list, tuple)):
            items = [pack(item, f"{path}/{i}" if path else str(i)) for i, item in enumerate(value)]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        _require_scalar(value, path or "the state")
        return value

    rest = pack(state, "")
    return tensors, rest


def unflatten_state(tensors: Mapping[str, Tensor], rest: Any) -> Any:
    """The state that `flatten_state` split; tensors are those of `tensors`, not copies.

    Raises:
        KeyError: a tensor that `rest` names is not in `tensors`.
    """
    if isinstance(rest, dict):
        if _TENSOR in rest:
            return tensors[rest[_TENSOR]]
        if _PAIRS in rest:
            return {key: unflatten_state(tensors, value) for key, value in rest[_PAIRS]}
        if _TUPLE in rest:
            return tuple(unflatten_state(tensors, value) for value in rest[_TUPLE])
        return {key: unflatten_state(tensors, value) for key, value in rest.items()}
    if isinstance(rest, list):
        return [unflatten_state(tensors, value) for value in rest]
    return rest


def _require_scalar(value: Any, name: str) -> None:
    if value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(f"{name} must be a tensor, number, string, bool or None, got {type(value).__name__}")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over the state and every tensor's name, dtype, shape and bytes. Tensors are contiguous and on the CPU."""
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"\0{key}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _steps(directory: Path) -> dict[int, Path]:
    if not directory.is_dir():
        return {}
    matches = ((_NUMBERED.fullmatch(path.name), path) for path in directory.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def _refuse_older(directory: Path, step: int) -> None:
    """A later step belongs to another run: rotating it away would lose it, keeping it would resume the wrong run."""
    later = max(_steps(directory), default=step)
    if later > step:
        raise CheckpointError(f"{directory}: holds step {later} of an earlier run, cannot add step {step}")


def _rotate(directory: Path, keep: int) -> None:
    steps = _steps(directory)
    for step in sorted(steps)[:-keep]:
        steps[step].unlink(missing_ok=True)
    sync_directory(directory)


def _remove_stale(directory: Path) -> None:
    for path in directory.glob(f".*.safetensors.*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def _reported(path: str | Path, action: str) -> Iterator[None]:
    """Turn the system's error into one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: {action}: {reason(error)}") from error
