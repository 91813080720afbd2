"""scripts/pictures.py: the pictures of README.md, out of a run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.api import Reconstruction
from scripts.pictures import drawings, main, patches_of
from tests.support.programs import ROOT
from tests.support.runs import pretrain

DATA = str(ROOT / "data/demo/test-000000.tar.gz")


def test_drawings_are_those_of_the_keys_in_their_order() -> None:
    assert len(drawings(DATA, ())) == 6
    names = ("noto/key", "fluent/duck")
    there, back = (
        [np.asarray(each) for each in drawings(DATA, order)] for order in (names, names[::-1])
    )
    assert np.array_equal(there[0], back[1])
    assert np.array_equal(there[1], back[0])
    assert not np.array_equal(there[0], there[1])
    with pytest.raises(ValueError, match="has no drawing 'noto/nothing'"):
        drawings(DATA, ("noto/key", "noto/nothing"))


def test_the_dense_tensor_has_the_visible_patches_in_raster_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    made = Reconstruction(*(4 * [Image.fromarray(pixels)]))
    visible = [place in (3, 48) for place in range(49)]
    one, other = patches_of(made, visible)
    assert np.array_equal(one, pixels[:8, 24:32])
    assert np.array_equal(other, pixels[48:, 48:])


@pytest.mark.slow
def test_both_are_made_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = pretrain(run, "--model.image_size", "56", "--optim.steps", "1")
    assert done.returncode == 0, done.stderr
    main([str(run), "--data", DATA, "--keys", "noto/key", "--out", str(tmp_path)])
    for name in ("idea.png", "reconstructions.png"):
        with Image.open(tmp_path / name) as picture:
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colours, axis=0)) > 500


def test_a_run_of_other_patches_is_refused(tmp_path: Path) -> None:
    done = pretrain(tmp_path / "run", "--optim.steps", "1")
    assert done.returncode == 0, done.stderr
    with pytest.raises(ValueError, match="16 patches; the idea shows 49"):
        main([str(tmp_path / "run"), "--data", DATA, "--out", str(tmp_path)])
