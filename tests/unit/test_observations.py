from pathlib import Path

import numpy as np
import pytest

from tessera_flow.observations import group_by_length, positions, sequence_length

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
            continue  # has no bin, so never a sequence; refused below
        compared += 1
        assert np.array_equal(positions(int(n), int(length)), expected[:length]), (n, length)
    assert compared == 56


def test_long_series_follow_the_rounding_of_float64_linspace() -> None:
    exact_differs = 0
    for n, expected in zip(GOLDEN["long_n"], GOLDEN["long_pattern"], strict=True):
        assert np.array_equal(positions(int(n), 256), expected), n
        exact_differs += not np.array_equal(np.arange(256) * (n - 1) // 255, expected)
    assert exact_differs > 0  # otherwise integer arithmetic would do


def test_steps_of_many_pixels_at_once_equal_the_reference() -> None:
    valid, expected = GOLDEN["valid"], GOLDEN["source_indices"]
    seen = np.zeros(len(valid), bool)
    for group in group_by_length(valid):
        assert not seen[group.pixels].any()
        seen[group.pixels] = True
        assert np.array_equal(group.steps, expected[group.pixels, : group.length])
        assert valid[group.pixels[:, None], group.steps].all()
    assert np.array_equal(seen, valid.any(axis=1))


def test_groups_come_shortest_first_and_leave_out_the_unobserved() -> None:
    valid = np.zeros((4, 30), bool)
    valid[0, :20] = True
    valid[1, 29] = True
    valid[3, ::2] = True
    groups = list(group_by_length(valid))
    assert [(g.length, g.pixels.tolist()) for g in groups] == [(8, [1]), (16, [3]), (24, [0])]
    assert groups[0].steps.tolist() == [[29] * 8]


def test_no_time_step_at_all_is_no_group() -> None:
    assert list(group_by_length(np.zeros((5, 0), bool))) == []


def test_an_empty_series_has_no_positions() -> None:
    with pytest.raises(ValueError, match="0 valid"):
        positions(0, 8)
