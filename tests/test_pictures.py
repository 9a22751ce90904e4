"""Free pictures to pretrain with, and what makes pairs composed of them harder."""
import numpy as np
import pytest

import get_pictures
from core.errors import OperationError
from sources.variety import out_of_focus, photographed, see_through, with_others_behind


def sphere(height: int = 64) -> np.ndarray:
    """A panorama that is 1 straight ahead, within 20°, and 0 elsewhere."""
    latitude = (np.arange(height) + 0.5) / height * np.pi - np.pi / 2
    longitude = (np.arange(2 * height) + 0.5) / height * np.pi - np.pi
    ahead = np.cos(latitude)[:, None] * np.cos(longitude) > np.cos(np.radians(20))
    return np.repeat(ahead[..., None], 3, 2).astype(np.float32)


def test_a_camera_sees_what_it_looks_at():
    light, view = sphere(256), np.radians(60)
    ahead = get_pictures.looked_at(light, view, 0, 0)[..., 0]
    middle = get_pictures.SIDE // 2
    assert ahead[middle, middle] == 1 and ahead[0, 0] == 0
    # 20° of a half field of 30°: tan 20 / tan 30 of the half side
    radius = np.tan(np.radians(20)) / np.tan(view / 2) * middle
    assert np.sqrt((ahead > 0.5).sum() / np.pi) == pytest.approx(radius, rel=0.02)
    assert get_pictures.looked_at(light, view, np.pi, 0).max() == 0
    assert get_pictures.looked_at(light, view, np.radians(25), 0)[middle, :middle].max() == 1  # it is on the left now
    upwards = get_pictures.looked_at(light, view, 0, np.radians(25))[:, middle]
    assert upwards[middle:].max() == 1 and upwards[:middle - 60].max() == 0  # and now it is below


def test_views_are_exposed_pictures_and_always_the_same():
    light = np.random.default_rng(0).random((32, 64, 3), np.float32) * 50
    first, again = (next(get_pictures.views(light, 3)) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == (get_pictures.SIDE, get_pictures.SIDE, 3)
    assert np.array_equal(first, again) and 90 < np.median(first) < 200


def test_an_unreachable_registry_is_one_line():
    with pytest.raises(OperationError, match=r"127\.0\.0\.1:9/x\.tgz: ") as error:
        get_pictures.download("http://127.0.0.1:9/x.tgz", "")
    assert "\n" not in str(error.value)


def test_a_see_through_object_keeps_its_rim_and_no_more_than_its_alpha():
    clearer = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        alpha = np.zeros((96, 96), np.float32)
        alpha[16:80, 16:80] = 1
        picture = np.dstack([alpha[..., None] * rng.uniform(0, 255, 3), alpha]).astype(np.float32)
        glass = see_through(picture, rng)
        assert (glass[..., 3] <= alpha + 1e-6).all() and (glass[..., :3] <= 256 * glass[..., 3:]).all()
        clearer.append(glass[16:80, 16, 3].mean() - glass[36:60, 36:60, 3].min())
    assert min(clearer) >= 0 and np.mean(np.array(clearer) > 0.2) > 0.7


def test_objects_behind_are_blurred_and_none_changes_nothing():
    rng = np.random.default_rng(0)
    behind = np.full((64, 64, 3), 0.5, np.float32)
    assert np.array_equal(with_others_behind(behind, [], rng), behind)
    other = np.zeros((64, 64, 4), np.float32)
    other[20:40, 20:40] = 255, 0, 0, 1
    blurred = with_others_behind(behind, [other], rng)
    assert blurred[30, 30, 0] > 0.9 and blurred[0, 0].tolist() == [0.5, 0.5, 0.5] and 0.5 <= blurred[30, 19, 0] < 1


def test_a_camera_adds_noise_and_keeps_the_picture():
    picture = np.dstack([np.tile(np.arange(0, 192, 2, dtype=np.uint8), (96, 1))] * 3)
    taken = photographed(picture, np.random.default_rng(0))
    error = taken.astype(int) - picture
    assert taken.dtype == np.uint8 and taken.shape == picture.shape
    assert 0.5 < np.abs(error).mean() < 8 and abs(error.mean()) < 1
    behind = np.random.default_rng(0).random((64, 64, 3), np.float32)
    spreads = [out_of_focus(behind, np.random.default_rng(seed)).std() for seed in range(40)]
    assert 0.2 < np.mean(np.array(spreads) < 0.9 * behind.std()) < 0.6  # some are blurred, most are not
