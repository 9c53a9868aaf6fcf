"""Presets, the rules of their values, and configurations as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from irecgan_ext.errors import UsageError
from irecgan_ext.training.config import PRESETS, TrainConfig, preset
from irecgan_ext.training.summary import CONFIG_FILE, read_config, read_json, write_config, write_json


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_know_their_name(name: Any) -> None:
    config = preset(name)
    config.check()
    assert config.preset == name


def test_the_paper_preset_is_the_paper() -> None:
    paper = preset("paper")
    assert (paper.model.cell, paper.model.hidden, paper.model.layers, paper.model.embedding) == ("lstm", 512, 2, 50)
    assert paper.adversarial.action == "click"
    assert (paper.adversarial.logged_ratio, paper.adversarial.log_weight, paper.adversarial.log_anchor) == (10, 10, 0)
    assert (paper.adversarial.gamma, paper.adversarial.lambda_r) == (0.9, 3)
    assert (paper.user.min_updates, paper.agent.min_updates) == (1, 1)
    assert (paper.model.history_dropout, paper.adversarial.average, paper.adversarial.centre_q) == (0, 0, False)


def changed(flag: str, value: Any) -> TrainConfig:
    """The quick preset with one option, named as its flag is, set to `value`."""
    config = preset("quick")
    group, _, name = flag.replace("-", "_").rpartition(".")
    if not group:
        return replace(config, **{name: value})
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


BAD = [
    *((flag, value, f"must be positive and finite, got {value}")
      for flag in ("log-sessions", "slate-size", "threads", "user.epochs", "agent.epochs", "user.batch", "agent.batch",
                   "user.min-updates", "agent.min-updates",
                   "discriminator.batch", "adversarial.generated", "adversarial.completions", "adversarial.user-batch",
                   "adversarial.agent-batch", "critic.epochs", "online.iterations", "online.updates", "online.epochs")
      for value in (0, -1)),
    *((flag, value, f"must be positive and finite, got {value}")
      for flag in ("user.learning-rate", "agent.learning-rate", "discriminator.learning-rate", "user.decay",
                   "adversarial.user-learning-rate", "adversarial.agent-learning-rate", "adversarial.logged-ratio",
                   "critic.learning-rate", "pgis.cap")
      for value in (0.0, -1.0, math.nan, math.inf)),
    *((flag, value, f"must be finite and not negative, got {value}")
      for flag in ("adversarial.final-rate", "adversarial.lambda-r", "adversarial.lambda-p", "adversarial.log-weight",
                   "adversarial.log-anchor",
                   "adversarial.pessimism", "user.weight-decay", "agent.weight-decay", "checkpoint-seconds")
      for value in (-0.5, math.nan, math.inf)),
    *((flag, -1, "must be finite and not negative, got -1")
      for flag in ("adversarial.epochs", "adversarial.r-steps", "adversarial.d-steps", "adversarial.d-epochs",
                   "discriminator.pretrain-epochs", "evaluation.seed", "online.rounds")),
    *((f"adversarial.{name}", value, rf"must be in \[0, 1\], got {value}")
      for name in ("gamma", "trace") for value in (-0.1, 1.1, math.nan)),
    *(("adversarial.average", value, rf"must be in \[0, 1\), got {value}") for value in (-0.1, 1.0, math.nan)),
    *(("adversarial.max-steps", value, rf"must be in 1\.\.65535, got {value}") for value in (0, 65536)),
    *(("validation-share", value, rf"must be in \(0, 1\), got {value}") for value in (0.0, 1.0, math.nan)),
    *(("seed", value, rf"must be in 0\.\.2\^64-1, got {value}") for value in (-1, 2**64)),
    *(("critic.trace", value, rf"must be in \[0, 1\], got {value}") for value in (-0.1, 1.1, math.nan)),
    ("online.sessions", 3, "must be at least online.updates = 4, got 3"),
    ("online.evaluation-sessions", 1, "must be at least 2, got 1"),
    ("log-sessions", 9, "must be at least 10, got 9"),
    ("evaluation.sessions", 1, "must be at least 2, got 1"),
    ("adversarial.logged-ratio", 1e-5, "must give at least one logged session, got 1e-05"),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "value", "message"), BAD)
def test_check_names_the_flag_the_rule_and_the_value(flag: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^--{flag} {message}$"):
        changed(flag, value).check()


GOOD = [
    ("threads", None), ("adversarial.max-steps", None), ("adversarial.max-steps", 65535), ("seed", 2**64 - 1),
    ("adversarial.epochs", 0), ("adversarial.average", 0.0), ("adversarial.trace", 1.0), ("checkpoint-seconds", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "value"), GOOD)
def test_check_accepts_the_limits(flag: str, value: Any) -> None:
    changed(flag, value).check()


def test_few_logged_sessions_are_the_log_readers_matter() -> None:
    replace(changed("log-sessions", 9), data="log.parquet").check()


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_json(tmp_path: Path, name: Any) -> None:
    for config in (preset(name), replace(preset(name), mdp=Path("a b/ü.safetensors"), threads=3, seed=2**63)):
        write_config(tmp_path, config)
        back = read_config(tmp_path)
        assert back == config
        assert isinstance(back.out, Path)
        assert type(back.mdp) is type(config.mdp)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold a JSON object, got list"),
        ("null", "must hold a JSON object, got NoneType"),
        ("{", "Expecting property name"),
        ('{"bogus": 1}', "not a configuration of this version: 'bogus'"),
        ('{"model": {"bogus": 1}}', "not a configuration of this version: 'bogus'"),
        ('{"model": 3}', "not a configuration of this version"),
        ('{"user": {}}', "not a configuration of this version"),
        ('{"out": 3}', "not a configuration of this version"),
    ],
)
def test_damaged_config(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / CONFIG_FILE}: ")


def test_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run \(config\.json is missing\)"):
        read_config(tmp_path / "absent")


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, 2.5, None, "ü"]})
    assert read_json(path) == {"a": [1, 2.5, None, "ü"]} == json.loads(path.read_text())
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, math.nan)
    assert read_json(path)["a"][0] == 1
    with pytest.raises(UsageError, match=r"absent\.json: No such file"):
        read_json(tmp_path / "absent.json")
