from pathlib import Path

import numpy as np
import pytest

from tessera_flow.models.sampling import (
    group_by_count,
    group_by_distinct_steps,
    positions,
    sequence_length,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden/prep/v2_bins_pad.npz")


def test_bins_equal_the_reference() -> None:
    bins = sequence_length(GOLDEN["n"])
    assert np.array_equal(bins, GOLDEN["bin"])
    assert bins[GOLDEN["n"] == 0] == 0
    assert bins.max() == 256


def test_padding_pattern_equals_the_reference_for_every_count() -> None:
    for n in range(1, 421):
        length = int(sequence_length(np.array(n)))
        expected = GOLDEN["pad_pattern"][n]
        assert np.array_equal(positions(n, length), expected[:length]), n
        assert (expected[length:] == -1).all()


def test_pattern_of_any_count_in_any_bin_equals_the_reference() -> None:
    compared = 0
    for (n, length), expected in zip(GOLDEN["grid_nB"], GOLDEN["grid_pattern"], strict=True):
        if n == 0:
            continue  # no bin, so no sequence; rejected below
        compared += 1
        assert np.array_equal(positions(int(n), int(length)), expected[:length]), (n, length)
    assert compared == 56


def test_long_series_follow_the_rounding_of_float64_linspace() -> None:
    exact_differs = 0
    for n, expected in zip(GOLDEN["long_n"], GOLDEN["long_pattern"], strict=True):
        assert np.array_equal(positions(int(n), 256), expected), n
        exact_differs += not np.array_equal(np.arange(256) * (n - 1) // 255, expected)
    assert exact_differs > 0  # integer arithmetic gives other positions


def test_steps_of_many_pixels_equal_the_reference() -> None:
    valid, expected = GOLDEN["valid"], GOLDEN["source_indices"]
    seen = np.zeros(len(valid), bool)
    for group in group_by_count(valid):
        assert not seen[group.pixels].any()
        seen[group.pixels] = True
        sequences = group.sequences()
        assert np.array_equal(sequences, expected[group.pixels, : sequences.shape[1]])
        assert (np.diff(group.steps) > 0).all()  # each step once
        assert valid[group.pixels[:, None], group.steps].all()
    assert np.array_equal(seen, valid.any(axis=1))


def test_groups_are_in_ascending_order_without_unobserved_pixels() -> None:
    valid = np.zeros((4, 30), bool)
    valid[0, :20] = True
    valid[1, 29] = True
    valid[3, ::2] = True
    groups = list(group_by_count(valid))
    sizes = [(*g.steps.shape, g.sequences().shape[1], g.pixels.tolist()) for g in groups]
    assert sizes == [(1, 1, 8, [1]), (1, 15, 16, [3]), (1, 20, 24, [0])]
    assert groups[0].steps.tolist() == [[29]] and groups[0].sequences().tolist() == [[29] * 8]


def test_full_bin_has_no_repeated_steps() -> None:
    for n in (8, 64, 256, 300):
        (group,) = group_by_count(np.ones((2, n), bool))
        assert group.inverse is None and group.steps.shape == (2, min(n, 256))


def test_sequences_of_groups_equal_the_drawn_sequences() -> None:
    steps = np.sort(np.random.default_rng(0).integers(0, 30, (50, 40)), axis=1)
    steps[7] = np.arange(40)
    seen = np.zeros(50, bool)
    for group in group_by_distinct_steps(steps):
        assert (np.diff(group.steps) > 0).all()
        assert np.array_equal(group.sequences(), steps[group.pixels])
        subset = group.take(slice(1, 3))
        assert np.array_equal(subset.sequences(), steps[group.pixels[1:3]])
        seen[group.pixels] = True
        assert (group.inverse is None) == (group.pixels.tolist() == [7])
    assert seen.all()


def test_no_time_steps_give_no_group() -> None:
    assert list(group_by_count(np.zeros((5, 0), bool))) == []


def test_empty_series_has_no_positions() -> None:
    with pytest.raises(ValueError, match="0 valid"):
        positions(0, 8)
