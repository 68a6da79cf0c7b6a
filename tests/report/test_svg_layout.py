import itertools

import pytest

from unveil.report.svg_layout import Box, Scale, place_labels, spread

FRAME = Box(0, 0, 700, 400)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (9.3, 31.2), (-3.0, 2.0), (11.0, 11.4)])
def test_linear_ticks_lie_inside_at_equal_steps(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100).ticks()
    assert 3 <= len(ticks) <= 8
    assert low <= ticks[0]
    assert ticks[-1] <= high
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize(("low", "high"), [(1e3, 1e7), (2e5, 9e6), (3.0, 4.0), (1e-12, 1e9)])
def test_log_ticks_lie_inside_and_are_few(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100, log=True).ticks()
    assert 1 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)


def test_a_scale_maps_its_ends() -> None:
    scale = Scale(10, 1000, 50, 250, log=True)
    assert (scale(10), scale(100), scale(1000)) == pytest.approx((50, 150, 250))


def test_labels_of_one_place_do_not_cover_one_another() -> None:
    points = [(350.0, 200.0)] * 6
    boxes = place_labels(points, [(120.0, 14.0)] * 6, FRAME, [Box(342, 192, 358, 208)])
    for one, other in itertools.combinations(boxes, 2):
        assert one.overlap(other) == 0
    assert all(box.outside(FRAME) == 0 for box in boxes)


def test_a_label_at_the_edge_stays_in_the_frame() -> None:
    for point in itertools.product((1.0, 699.0), (1.0, 399.0)):
        (box,) = place_labels([point], [(100.0, 14.0)], FRAME, [])
        assert box.outside(FRAME) == 0


def test_spread_keeps_order_gap_and_ends() -> None:
    heights = [100.0, 101.0, 99.0, 300.0, 299.0]
    moved = spread(heights, 14, 20, 305)
    order = sorted(range(5), key=lambda i: heights[i])
    for before, after in itertools.pairwise(order):
        assert moved[after] - moved[before] >= 14 - 1e-9
    assert min(moved) >= 20
    assert max(moved) <= 305


def test_spread_leaves_what_is_apart() -> None:
    assert spread([50.0, 90.0], 14, 0, 100) == [50.0, 90.0]


def test_spread_gives_large_labels_more_room() -> None:
    assert spread([50.0, 50.0, 50.0], [10, 40, 20], 0, 200) == [50.0, 75.0, 105.0]
    assert spread([50.0, 50.0, 50.0], [10, 40, 20], 0, 70) == [5.0, 30.0, 60.0]  # exactly as much room as they need
