"""What the page shows: features of visible patches alone, and the numbers of other programs."""

import io
import json
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

import fcmae
from fcmae.masking import draw_visible, patchify, unpatchify
from fcmae.reconstruction import VIEWS
from fcmae.run import checkpoint
from fcmae.run.checkpoint import TrainState
from fcmae.weights.autoencoder import load_autoencoder
from finetune.exploring.answers import Answers
from finetune.exploring.config import ExploreConfig
from finetune.exploring.data_images import DataImages
from finetune.exploring.drawing import coloured, pillow
from finetune.exploring.explored import Explored, load
from finetune.exploring.feature_maps import most_varied, patch_vectors, similarities
from finetune.exploring.neighbours import neighbours_of
from finetune.exploring.pictures import KEPT, Pictures
from finetune.exploring.question import Question
from finetune.labels.tasks import Task
from finetune.predict import main as predict
from tests.support.exploring import CLASSES, TEST, fine_tuned, pretrained
from tests.support.generators import generator
from tests.support.images import png
from tests.support.models import plain_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="module")
def model(run: Path) -> Explored:
    return load(str(run), CPU, print)


@pytest.fixture(scope="module")
def data(model: Explored) -> DataImages:
    return DataImages(ExploreConfig(checkpoint="", data=(TEST,), workers=0), model.metadata)


@pytest.fixture
def pictures(model: Explored) -> Pictures:
    return Pictures(model.metadata, ExploreConfig(checkpoint="").fitted(model.metadata), None)


def images_and_masks(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(n, 3, 32, 32, generator=generator(0))
    return images, draw_visible(n, 16, 0.6, generator=generator(1))


def test_a_hidden_patch_changes_no_feature_of_visible_ones(model: Explored) -> None:
    images, visible = images_and_masks(2)
    hidden = unpatchify((~visible)[..., None, None, None].expand(2, 16, 8, 8, 1).float(), (4, 4))
    others = torch.where(hidden.bool(), torch.full_like(images, torch.nan), images)
    for one, other in zip(
        model.stages(images, visible), model.stages(others, visible), strict=True
    ):
        assert torch.equal(one, other)


def test_features_of_whole_pictures_are_those_of_the_library(model: Explored, run: Path) -> None:
    images, _ = images_and_masks(2)
    stages = model.stages(images, torch.ones(2, 16, dtype=torch.bool))
    assert [tuple(stage.shape[2:]) for stage in stages] == [
        *((8, 8, 40), (4, 4, 80), (2, 2, 160), (1, 1, 320))
    ]
    timm, _ = fcmae.load(run)
    with torch.inference_mode():
        expected = timm.forward_features(images).mean((2, 3))  # type: ignore[operator]
    torch.testing.assert_close(stages[3].mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-5)


def test_reconstructions_are_those_of_the_library(model: Explored, run: Path) -> None:
    picture = Image.open(io.BytesIO(png(0)))
    theirs = fcmae.reconstruct(run, picture, seed=3)
    visible = draw_visible(1, 16, model.ratio, generator=generator(3))[0]
    _, transform = fcmae.load(run)
    image = transform(picture)
    stages = model.stages(image[None], visible[None])
    for name, view in zip(VIEWS, model.views(image, visible, stages), strict=True):
        ours = np.asarray(pillow(view)).astype(int)
        # one of the two rounds, the other cuts off
        assert np.abs(ours - np.asarray(getattr(theirs, name))).max() <= 1, name


def test_nothing_hidden_is_pasted_as_it_is(model: Explored) -> None:
    image = images_and_masks(1)[0][0]
    visible = torch.ones(16, dtype=torch.bool)
    stages = model.stages(image[None], visible[None])
    original, shown, _, pasted = model.views(image, visible, stages)
    assert torch.equal(original, shown)
    assert torch.equal(original, pasted)


def test_maps_are_of_the_most_varied_channels_and_empty_where_patches_are_hidden() -> None:
    stage = torch.zeros(2, 2, 2, 5)
    stage[..., 3] = torch.arange(8.0).view(2, 2, 2)
    stage[0, 0, 0, 1] = 1
    visible = torch.tensor([False, True, True, False])
    first, second = most_varied(stage, visible, (2, 2), 2)
    assert (first.channel, second.channel) == (3, 1)
    nan = torch.nan
    expected = [[nan, nan, 0, 1], [nan, nan, 2, 3], [4, 5, nan, nan], [6, 7, nan, nan]]
    torch.testing.assert_close(first.values, torch.tensor(expected), equal_nan=True)
    drawn = coloured(first.values)
    assert (drawn.low, drawn.high) == (0, 7)


def test_a_patch_is_most_like_itself(model: Explored) -> None:
    images, visible = images_and_masks(1)
    patch = int(visible[0].nonzero()[2])
    for stage in model.stages(images, visible):
        cosines = similarities(patch_vectors(stage[0]), visible[0], patch)
        assert cosines[patch] == pytest.approx(1)
        assert torch.equal(cosines.isnan(), ~visible[0])
        assert cosines[visible[0]].max() == cosines[patch]
        one, other = (stage[0, i].mean((0, 1)) for i in (2, 0))
        expected = float(torch.nn.functional.cosine_similarity(one, other, 0))
        first = int(visible[0].nonzero()[0])
        assert float(cosines[first]) == pytest.approx(expected, abs=1e-5)


def test_a_patch_is_found_among_those_of_many_images(model: Explored, data: DataImages) -> None:
    found = neighbours_of(model, data.spread(20))
    assert found.samples[0] == 0
    assert found.samples[-1] == len(data) - 1
    sample = int(found.samples[7])
    image, _ = data.read(sample)
    patch = int(patchify(image[None], 8).flatten(2).var(-1).argmax())  # others may be white alike
    stages = model.stages(image[None], torch.ones(1, 16, dtype=torch.bool))
    vectors = [patch_vectors(stage)[0, patch] for stage in stages]
    for at, vector in enumerate(vectors):
        first, second = found.nearest(vector, at, 2, None)
        assert first.sample == sample
        assert first.cosine == pytest.approx(1, abs=2e-3)
        assert second.sample != sample
        assert found.nearest(vector, at, 1, sample) == [second]
    assert len(found.nearest(vectors[3], 3, 100, sample)) == 19


def test_classes_are_those_of_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, path = fine_tuned(tmp_path), tmp_path / "a.png"
    path.write_bytes(png(5))
    with pytest.raises(SystemExit):
        predict([str(path), "--weights", str(weights), "--json"])
    expected = json.loads(capsys.readouterr().out)["top"]
    model = load(str(weights), CPU, print)
    pictures = Pictures(model.metadata, ExploreConfig(checkpoint="").fitted(model.metadata), None)
    image = pictures[pictures.drop(path.read_bytes())].image
    answers = Answers(model, CPU, pictures, None)
    assert [row["class"] for row in expected] == [name for name, _ in answers.ranked(image)]
    shares = [share for _, share in answers.ranked(image)]
    assert shares == pytest.approx([row["probability"] for row in expected])
    assert {name for name, _ in answers.ranked(image)} == set(CLASSES)
    assert (model.decoder, model.ratio) == (None, 0.6)


def test_a_value_is_told_in_its_unit(tmp_path: Path) -> None:
    task = Task(kind="value", field="age <years>", names=("age <years>",), mean=40.0, std=9.0)
    model = load(str(fine_tuned(tmp_path, task)), CPU, print)
    pictures = Pictures(model.metadata, ExploreConfig(checkpoint="").fitted(model.metadata), None)
    name = pictures.drop(png(5))
    assert model.classifier is not None
    with torch.inference_mode():
        expected = 40 + 9 * float(model.classifier(pictures[name].image[None]))
    question = {"picture": name, "stage": 4, "ratio": 0.5}
    html = Answers(model, CPU, pictures, None)(json.dumps(question).encode())["html"]
    assert f"age &lt;years&gt;: {expected:.4g}" in html
    assert "probability" not in html


def test_averaged_weights_are_taken_with_their_decoder(tmp_path: Path) -> None:
    model, metadata = load_autoencoder(pretrained(tmp_path))
    averages = {name: 0.5 * tensor for name, tensor in model.state_dict().items()}
    files = checkpoint.snapshot(model, torch.optim.AdamW(model.parameters()), averages)
    config = (tmp_path / "run" / "step_0000007" / checkpoint.CONFIG).read_text()
    step = checkpoint.save(tmp_path / "averaged", TrainState(9, 72), files, config)
    averaged, told = load_autoencoder(step / checkpoint.EMA)
    assert told == replace(metadata, step=9)
    assert all(torch.equal(averaged.state_dict()[name], averages[name]) for name in averages)
    shown = load(str(step / checkpoint.EMA), CPU, print)
    predict = plain_of(shown.decoder).predict
    assert torch.equal(predict.weight, averages["decoder.predict.weight"])
    assert torch.equal(
        shown.encoder.state_dict()["stem.0.weight"], averages["encoder.stem.0.weight"]
    )
    last, _ = load_autoencoder(step)
    assert torch.equal(
        plain_of(last.decoder).predict.weight, plain_of(model.decoder).predict.weight
    )


def header_of(height: int, width: int) -> bytes:
    """A small PNG whose header tells another size."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + png(0)[24:29]
    return png(0)[:12] + header + crc32(header).to_bytes(4, "big") + png(0)[33:]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"<!doctype html><title>no image</title>", "no image in a format that is read"),
        (png(0)[:200], "cannot be decoded as an image"),
        (png(0)[:20], "cannot be decoded as an image"),
        (header_of(10_000, 8_000), "has more than 50 million pixels: drop a smaller one"),
        (header_of(30_000, 30_000), "has more than 50 million pixels"),
    ],
)
def test_what_is_no_picture_is_told(content: bytes, why: str, pictures: Pictures) -> None:
    with pytest.raises(ValueError, match=why):
        pictures.drop(content)
    assert not pictures.dropped


def test_the_last_pictures_are_kept(pictures: Pictures) -> None:
    names = [pictures.drop(png(seed)) for seed in range(KEPT)]
    assert pictures[names[0]].image.shape == (3, 32, 32)  # looked at, and so not the oldest
    pictures.drop(png(99))
    assert pictures[names[0]].sample is None
    with pytest.raises(ValueError, match="not kept any more"):
        pictures[names[1]]
    with pytest.raises(ValueError, match="not kept any more"):
        pictures["sample-3"]


def test_names_of_images_have_no_folders(data: DataImages, pictures: Pictures) -> None:
    assert data.named("home/me/cats/1", "") == "1"
    assert data.named("a", "0") == f"a, {data.classes[0]}"
    assert data.named("a\x1b", "tabby") == "a\\x1b, tabby"
    with pytest.raises(ValueError, match="there is no image 5000: the data set has"):
        data.read(5000)


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"picture": "a"}, "its field 'stage' is missing"),
        ({"picture": "a", "stage": 5}, "stage=5 must be 1 to 4"),
        ({"picture": "a", "stage": 1, "patch": 16}, "patch=16 must be 0 to 15"),
        ({"picture": "a", "stage": 1, "path": "/etc"}, "unknown field 'path'"),
        ([], "no object of JSON"),
    ],
)
def test_questions_are_checked(question: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Question.of_json(json.dumps(question).encode(), 16)


def test_masks_are_checked_and_drawn() -> None:
    drawn = Question(picture="", stage=1, ratio=0.6, seed=4).visible_of(49)
    assert torch.equal(drawn, draw_visible(1, 49, 0.6, generator=generator(4))[0])
    given = Question(picture="", stage=1, visible="0110").visible_of(4)
    assert given.tolist() == [False, True, True, False]
    for visible, why in (
        ("0000", "all patches are hidden"),
        ("01", "for each of 4"),
        ("01x1", "0 or 1"),
    ):
        with pytest.raises(ValueError, match=why):
            Question(picture="", stage=1, visible=visible).visible_of(4)
    with pytest.raises(ValueError, match=r"ratio=1.0 must lie in \[0, 1\)"):
        Question(picture="", stage=1, ratio=1.0).visible_of(4)


def test_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="fit=tiles: the page shows one image"):
        ExploreConfig(checkpoint="", fit="tiles")
