"""Lenses bend as their formulas say, and rectified images are those of straight cameras."""

import numpy as np
import pytest
import torch

from sightword.systems.points.capture.colmap import MODELS, _camera
from sightword.systems.points.capture.lens import Lens, straightened
from sightword.systems.points.lift.geometry import distorted

PLANE = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))


def test_five_numbers_bend_as_in_the_projection():
    values = (0.1, -0.05, 0.002, -0.003, 0.01)
    theirs, _ = distorted(torch.from_numpy(PLANE), torch.tensor([values], dtype=torch.float64).expand(50, 5))
    np.testing.assert_allclose(Lens("opencv", values).bend(PLANE), theirs, atol=1e-12)
    np.testing.assert_allclose(Lens("opencv", values).five(), values)


def test_lenses_that_need_other_numbers_say_so():
    assert Lens("opencv", (0, 0, 0, 0, 0, 0.1)).five() is None
    assert Lens("fisheye").five() is None
    assert Lens().five().tolist() == [0] * 5


def test_a_fisheye_lens_maps_angles():
    plane = np.array([[1.0, 0.0], [0.0, np.tan(0.3)], [0.0, 0.0]])
    np.testing.assert_allclose(Lens("fisheye").bend(plane), [[np.pi / 4, 0], [0, 0.3], [0, 0]], atol=1e-12)
    bent = Lens("fisheye", (0.1, 0.0, 0.0, 0.0)).bend(plane[:1])
    assert bent[0, 0] == pytest.approx(np.pi / 4 * (1 + 0.1 * (np.pi / 4) ** 2))


def test_the_field_of_view_model_is_straight_along_its_formula():
    omega = 0.9
    bent = Lens("fov", (omega,)).bend(np.array([[0.5, 0.0], [0.0, 0.0]]))
    assert bent[0, 0] == pytest.approx(np.arctan(2 * 0.5 * np.tan(omega / 2)) / omega)
    assert bent[1].tolist() == [0, 0]


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model[0])
def test_every_model_of_colmap_projects_as_colmap_does(model):
    pycolmap = pytest.importorskip("pycolmap")
    name, focals, _, order = model
    rng = np.random.default_rng(1)
    bent = [0.9] if name == "FOV" else rng.uniform(-0.05, 0.05, len(order)).tolist()
    values = [*[500.0, 510.0][-focals:], 320.0, 240.0, *bent]
    theirs = pycolmap.Camera(model=name, width=640, height=480, params=values)
    camera = _camera(name, 640, 480, values)
    found = camera.lens.bend(PLANE) * camera.K[[0, 1], [0, 1]] + camera.K[:2, 2] + 0.5
    wanted = [theirs.img_from_cam(np.array([x, y, 1.0])) for x, y in PLANE]
    np.testing.assert_allclose(found, np.reshape(wanted, (-1, 2)), atol=1e-9)


def test_a_rectified_image_is_that_of_a_straight_camera():
    K, lens = np.array([(60.0, 0, 31.5), (0, 60.0, 23.5), (0, 0, 1)]), Lens("opencv", (-0.2, 0.05, 0.0, 0.0))
    v, u = np.indices((48, 64)).astype(float)
    plane = np.stack([(u - 31.5) / 60, (v - 23.5) / 60], -1).reshape(-1, 2)

    def colour(at):  # a smooth image on the plane z = 1
        return (127 + 100 * np.sin(6 * at[:, 0]) * np.cos(5 * at[:, 1])).reshape(48, 64)

    undone = plane.copy()
    for _ in range(50):  # which straight ray a pixel of the bent image sees
        undone -= lens.bend(undone) - plane
    rectified = straightened(colour(undone), K, lens)
    np.testing.assert_allclose(rectified[4:-4, 4:-4], colour(plane)[4:-4, 4:-4], atol=1.0)
