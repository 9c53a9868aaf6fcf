"""Philox4x32-10 against Random123's known answers, and the mapping from words to uniforms."""

import math

import pytest
import torch

from irecgan_ext.reference import ARRIVAL, CLICK, PICK, Stream, exponential, philox4x32, uniform

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    assert tuple(philox4x32(torch.tensor(counter), torch.tensor(key)).tolist()) == expected


def test_a_batch_of_counters_is_each_counter():
    counters = torch.randint(2**32, (3, 5, 4), generator=torch.Generator().manual_seed(0))
    key = torch.tensor([7, ONES])
    words = philox4x32(counters, key)
    assert words.shape == (3, 5, 4)
    assert torch.equal(words[2, 3], philox4x32(counters[2, 3], key))
    assert bool(((words >= 0) & (words <= ONES)).all())


def test_stream_packs_its_counter_and_key():
    row, step, completion, spawn = (0xAB << 32) | 0xFFFFFFF1, 0xFFFE, 0xFFFD, 0xFFFC
    one = [torch.tensor([x]) for x in (row, step, completion, spawn)]
    seed = -2
    for purpose in (ARRIVAL, PICK, CLICK):
        words = Stream(torch.tensor(seed), *one).words(purpose, torch.tensor([5 | 63 << 24]))
        counter = [5 | 63 << 24, 0xFFFDFFFE, 0xFFFFFFF1, 0xAB | 0xFFFC << 8 | purpose << 24]
        assert torch.equal(words[0], philox4x32(torch.tensor(counter), torch.tensor([0xFFFFFFFE, ONES])))


def test_every_part_of_the_counter_and_the_seed_change_the_words():
    def words(seed=0, row=0, step=0, completion=0, spawn=0, purpose=0, block=0):
        one = [torch.tensor([x]) for x in (row, step, completion, spawn)]
        return tuple(Stream(torch.tensor(seed), *one).words(purpose, torch.tensor([block]))[0].tolist())

    names = ("row", "step", "completion", "spawn", "purpose", "block", "seed")
    seen = {words(), words(row=2**32), words(seed=2**32), *(words(**{name: 1}) for name in names)}
    assert len(seen) == 3 + len(names)


def test_blocks_broadcast_over_rows():
    rows = torch.tensor([3, 4])
    zeros = torch.zeros_like(rows)
    stream = Stream(torch.tensor(1), rows, zeros, zeros, zeros)
    grid = stream.words(PICK, torch.arange(3).expand(2, 3))
    assert grid.shape == (2, 3, 4)
    assert torch.equal(grid[:, 2], stream.words(PICK, torch.tensor([2, 2])))


def test_uniform_resolves_zero_and_excludes_one():
    low, high = torch.tensor([0, 1, 0, ONES]), torch.tensor([0, 0, 1 << 31, ONES])
    expected = torch.tensor([2.0**-65, 1.5 * 2.0**-64, 0.5 + 2.0**-65, 1 - 2.0**-53], dtype=torch.float64)
    assert torch.equal(uniform(low, high), expected)


def test_exponential_is_fine_at_zero_and_finite_at_the_end():
    arrivals = exponential(torch.tensor([0, ONES]), torch.tensor([0, ONES]))
    assert arrivals[0].item() == 2.0**-65
    assert arrivals[1].item() == pytest.approx(53 * math.log(2))


def test_uniform_mean_and_variance():
    rows = torch.arange(20_000)
    zeros = torch.zeros_like(rows)
    words = Stream(torch.tensor(9), rows, zeros, zeros, zeros).words(CLICK, zeros)
    for u in (uniform(words[:, 0], words[:, 1]), uniform(words[:, 2], words[:, 3])):
        assert abs(u.mean().item() - 0.5) < 4 / math.sqrt(12 * len(rows))
        assert abs(u.var().item() - 1 / 12) < 4 * math.sqrt(1 / 180 / len(rows))
