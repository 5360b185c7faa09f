import numpy as np
import pytest

from tessera_flow.models.philox import Stream, draw_ranks, philox
from tessera_flow.models.sampling import Draws, candidates, draw_steps


def stream(pixels: int, seed: int = 1, sensor: int = 0, repeat: int = 0) -> Stream:
    return Stream(seed, np.arange(pixels) // 100, np.arange(pixels) % 100, sensor, repeat)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_equals_the_published_numbers(
    counter: list[int], key: list[int], expected: str
) -> None:
    """Known answers published with the code of the authors (Random123)."""
    words = philox(np.array([counter], np.uint64), (key[0], key[1]))
    assert [f"{word:08x}" for word in words[0]] == expected.split()


def test_words_depend_on_position_seed_sensor_and_repeat() -> None:
    words = stream(300).words(10)
    assert words.dtype == np.uint32 and len(np.unique(words)) == 3000
    for other in (stream(300, seed=2), stream(300, sensor=1), stream(300, repeat=1)):
        assert not np.intersect1d(other.words(10), words).size
    assert not np.array_equal(stream(300, seed=1 + 2**40).words(10), words)


def test_words_do_not_depend_on_the_number_requested() -> None:
    words = stream(300).words(90)
    assert np.array_equal(stream(300).words(7), words[:, :7])
    pixels = np.array([299, 3, 150])
    assert np.array_equal(stream(300).subset(pixels).words(90), words[pixels])


@pytest.mark.parametrize("n", [40, 41, 90])
def test_draws_without_replacement_are_uniform(n: int) -> None:
    pixels = 8000
    ranks = draw_ranks(np.full(pixels, n), 40, stream(pixels))
    assert (np.diff(ranks, axis=1) > 0).all()
    assert ranks.min() == 0 and ranks.max() == n - 1
    share = np.bincount(ranks.ravel(), minlength=n) / pixels
    # Binomial: 5 standard deviations.
    assert np.abs(share - 40 / n).max() <= 5 * np.sqrt(40 / n * (1 - 40 / n) / pixels)


@pytest.mark.parametrize("n", [1, 2, 7, 39])
def test_draws_with_replacement_are_uniform(n: int) -> None:
    pixels = 4000
    ranks = draw_ranks(np.full(pixels, n), 40, stream(pixels))
    assert (np.diff(ranks, axis=1) >= 0).all()
    share = np.bincount(ranks.ravel(), minlength=n) / ranks.size
    assert np.abs(share - 1 / n).max() <= 5 * np.sqrt(1 / n * (1 - 1 / n) / ranks.size)
    if n == 39:  # with replacement pixels are drawn twice and others not at all
        distinct = [len(np.unique(row)) for row in ranks]
        assert abs(np.mean(distinct) - 39 * (1 - (38 / 39) ** 40)) < 0.2


def test_draw_does_not_depend_on_other_pixels() -> None:
    n = np.random.default_rng(0).integers(1, 120, 500)
    together = draw_ranks(n, 40, stream(500))
    order = np.random.default_rng(1).permutation(500)
    assert np.array_equal(draw_ranks(n[order], 40, stream(500).subset(order)), together[order])
    for pixel in (0, 77, 499):
        alone = draw_ranks(n[[pixel]], 40, stream(500).subset(np.array([pixel])))
        assert np.array_equal(alone[0], together[pixel])


def test_steps_are_drawn_from_valid_ones_or_from_all() -> None:
    valid = np.random.default_rng(2).random((200, 90)) < 0.5
    valid[10] = False
    steps = draw_steps(valid, 40, stream(200))
    observed = np.arange(200) != 10
    assert valid[np.arange(200)[:, None], steps][observed].all()
    assert len(np.unique(steps[10])) == 40  # 90 candidates: without replacement
    assert candidates(valid)[10].all() and np.array_equal(candidates(valid)[11], valid[11])


def test_dates_that_no_pixel_of_the_block_saw_change_no_draw() -> None:
    """A block drops such dates, so that its time axis depends on its size."""
    valid = np.random.default_rng(3).random((50, 60)) < 0.6
    wider = np.zeros((50, 80), bool)
    kept = np.sort(np.random.default_rng(4).permutation(80)[:60])
    wider[:, kept] = valid
    assert np.array_equal(
        kept[draw_steps(valid, 40, stream(50))], draw_steps(wider, 40, stream(50))
    )


def test_an_empty_time_axis_gives_no_group() -> None:
    assert list(Draws().groups(np.zeros((5, 0), bool), stream(5))) == []
