"""Training on a CUDA device: the same code and seeds, nearly the same numbers as on the CPU."""

import copy
from dataclasses import replace

import pytest
import torch
from runs import ITEMS, tiny_config, tiny_log

from irecgan_ext.models import Encoder
from irecgan_ext.training.adversarial import train_irecgan
from irecgan_ext.training.config import ModelConfig
from irecgan_ext.training.job import choose_device
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.run import Run

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to train on"),
]


@pytest.mark.parametrize("action", ["click", "slate"])
def test_the_numbers_of_the_cpu(tmp_path, action):
    # Dropout draws from the device's own generator, so without it.
    plain = ModelConfig(embedding=4, hidden=8, user_dropout=0.0, agent_dropout=0.0)
    config = replace(tiny_config(action=action, log_weight=0.5), model=plain)
    log = tiny_log()
    train, valid = log.select(torch.arange(40)), log.select(torch.arange(40, 60))
    records = {}
    for device in ("cpu", "cuda"):
        run = Run(config, tmp_path / device, train, valid, ITEMS, "survival", choose_device(device))
        train_irecgan(run)
        run.close()
        assert next(run.models.parameters()).device.type == device
        records[device] = read_metrics(tmp_path / device)
    for ours, theirs in zip(records["cuda"], records["cpu"], strict=True):
        assert ours["phase"] == theirs["phase"]
        for name in theirs.keys() - {"wall", "phase"}:
            assert ours[name] == pytest.approx(theirs[name], rel=0.01, abs=0.01), (theirs["phase"], name)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_copied_encoder_runs_without_a_warning(cell):
    """cuDNN warns where a module's weights lie apart, and warnings are errors here."""
    encoder = Encoder(ITEMS, 4, 8, 2, cell).cuda()
    symbols = torch.randint(ITEMS, (3, 5), device="cuda")
    torch.testing.assert_close(copy.deepcopy(encoder)(symbols), encoder(symbols))
