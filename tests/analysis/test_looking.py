"""Where points go, in numbers, on points whose answer is known."""

import numpy as np
import pytest

from minidat.analysis.looking import groups_apart, in_box


def test_points_in_a_box_are_counted_in_pixels_of_the_image():
    """A map of 4×8 on an image of 8×16: pixel (1, 2) of the map covers rows 2–3 and columns 4–5. The box holds these alone."""
    # (2, 1, 4, 2)
    points = np.array([[[[1, 2], [1, 3], [2, 2], [0, 2]]], [[[0.6, 1.6], [1.2, 1.8], [1.3, 2], [1, 2.3]]]])
    boxes = np.array([[2, 4, 4, 6]] * 2)
    assert in_box(points, (4, 8), boxes, (8, 16)).tolist() == [0.25, 1.0]
    assert in_box(points + np.array([0, 0.6]), (4, 8), boxes, (8, 16))[0] == 0


def test_groups_are_apart_in_their_image_and_from_another_s():
    """Group 1 lies (3, 4) from group 0 in each image, and the second image lies (6, 8) from the first."""
    one = np.array([[[0.0, 0.0]], [[3.0, 4.0]]])  # (G, N, 2)
    assert groups_apart(np.stack([one, one + np.array([6.0, 8.0])])) == pytest.approx((5.0, (15.0 + 5.0) / 2))
    assert groups_apart(np.zeros((2, 1, 5, 2))) == (0.0, 0.0)
