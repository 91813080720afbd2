"""Predictions on files: table, JSON, every kind of head, and files that are no images."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.fitting import layout_of
from fcmae.run.program import run_program
from finetune.labels.mask_prediction import pasted
from finetune.labels.tasks import Task
from finetune.models import classifier, segmenter
from finetune.models.config import BackboneConfig
from finetune.predict import main
from finetune.training.config import WEIGHTS
from tests.support.images import png
from tests.support.models import TINY
from tests.support.programs import run

CLASSES = Task(kind="class", field="", names=("a", "b", "c"))


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are compared more closely than accelerators round, which may use TF32."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)


def save(folder: Path, task: Task = CLASSES) -> Path:
    path = folder / "weights.safetensors"
    config = BackboneConfig(random=TINY, head_init_scale=1.0)
    model, metadata = classifier.create(config, task.outputs, 0)
    classifier.save(path, model, metadata, task)
    return path


def images(folder: Path) -> Path:
    inside = folder / "images"
    inside.mkdir()
    for i in range(2):
        (inside / f"{i}.png").write_bytes(png(i))
    (inside / "notes.txt").write_text("no image")
    return inside


def predict(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in argv])
    told = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, told.out, told.err


def test_json_has_the_most_probable_classes_of_each_image(tmp_path: Path, capsys) -> None:
    weights, folder = save(tmp_path), images(tmp_path)
    status, out, _ = predict(capsys, folder, "--weights", weights, "--json", "--top", "2")
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["0.png", "1.png"]
    for line in lines:
        first, second = (row["probability"] for row in line["top"])
        assert 1 >= first >= second >= 0
    _, out, _ = predict(capsys, folder, "--weights", weights, "--json", "--top", "9")
    top = json.loads(out.splitlines()[0])["top"]
    assert {row["class"] for row in top} == {"a", "b", "c"}
    assert sum(row["probability"] for row in top) == pytest.approx(1)


def test_predictions_are_those_of_the_model(tmp_path: Path, capsys) -> None:
    from data.decode import open_image
    from data.fitting import Fitted
    from data.transforms import Normalise

    weights, folder = save(tmp_path), images(tmp_path)
    model, metadata, _ = classifier.load(weights)
    image = Fitted()(open_image(png(0), "png", 3), (16, 16))[None]
    normalise = Normalise(metadata.mean, metadata.std, 3)
    with torch.no_grad():
        expected = model.eval()(normalise(image)).softmax(1)[0]
    _, out, _ = predict(capsys, folder / "0.png", "--weights", weights, "--json")
    found = {row["class"]: row["probability"] for row in json.loads(out)["top"]}
    assert [found[name] for name in CLASSES.names] == pytest.approx(expected.tolist())


def test_values_are_answered_on_their_scale(tmp_path: Path, capsys) -> None:
    task = Task(kind="value", field="size", names=("size",), mean=100.0, std=1.0)
    weights, folder = save(tmp_path, task), images(tmp_path)
    _, out, _ = predict(capsys, folder, "--weights", weights, "--json")
    assert all(90 < json.loads(line)["size"] < 110 for line in out.splitlines())


def test_images_are_known_by_content_and_other_files_counted(tmp_path: Path, capsys) -> None:
    weights, folder = save(tmp_path), images(tmp_path)
    first = sorted(folder.iterdir())[0]
    first.rename(folder / "first")
    for name in ("notes.txt", "Thumbs.db"):
        (folder / name).write_text("text")
    status, out, err = predict(capsys, folder, "--weights", weights, "--json")
    assert status == 0
    assert str(folder / "first") in {json.loads(line)["image"] for line in out.splitlines()}
    assert err.splitlines() == [
        f"{folder}: skipped 1 .db: of a system",
        f"{folder}: skipped 1 .txt: no image",
    ]


def test_a_run_stands_for_its_weights(tmp_path: Path, capsys) -> None:
    weights, folder = save(tmp_path), images(tmp_path)
    assert weights.name == WEIGHTS
    of_file = predict(capsys, folder, "--weights", weights, "--json")
    assert predict(capsys, folder, "--weights", weights.parent, "--json") == of_file


def test_a_corrupt_image_is_named_and_the_others_answered(tmp_path: Path, capsys) -> None:
    weights, folder = save(tmp_path), images(tmp_path)
    (folder / "broken.png").write_bytes(b"nonsense")
    status, out, err = predict(capsys, folder, "--weights", weights, "--json")
    assert status == 1
    assert len(out.splitlines()) == 2
    assert err.splitlines() == [
        f"{folder}: skipped 1 .txt: no image",
        f"error: {folder}/broken.png: 8 bytes cannot be decoded as an image (no known format,"
        " though its name ends in .png)",
    ]


@pytest.mark.parametrize("fit", ["crop", "tiles"])
def test_batches_answer_in_order_as_one_image_at_a_time_does(
    tmp_path: Path, capsys, fit: str
) -> None:
    weights, folder = save(tmp_path), tmp_path / "images"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.png").write_bytes(png(i, (20 + i, 50 - 3 * i)))
    broken = [folder / "3.png", folder / "7.png"]
    for path in broken:
        path.write_bytes(b"nonsense")
    flags = ("--weights", weights, "--fit", fit, "--json")
    ones = predict(capsys, *sorted(folder.iterdir()), *flags, "--batch_size", "1")
    eights = predict(capsys, *sorted(folder.iterdir()), *flags, "--batch_size", "8")
    assert ones[0] == eights[0] == 1
    assert ones[2] == eights[2]
    named = [line.partition(": ")[2].partition(": ")[0] for line in ones[2].splitlines()]
    assert named == [str(path) for path in broken]
    lines = [[json.loads(line) for line in out.splitlines()] for _, out, _ in (ones, eights)]
    assert [Path(line["image"]).stem for line in lines[0]] == list("01245689")
    for one, eight in zip(*lines, strict=True):
        assert one["image"] == eight["image"]
        of_one, of_eight = ({t["class"]: t["probability"] for t in x["top"]} for x in (one, eight))
        assert of_one == pytest.approx(of_eight, rel=1e-4)  # sums of float32 in another order
    assert len({line["top"][0]["probability"] for line in lines[0]}) == 8


def test_an_image_of_values_far_from_all_others_has_no_answer(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "huge.npy", np.full((20, 20, 3), 3e38, np.float32))
    np.save(tmp_path / "fine.npy", np.full((20, 20, 3), 0.3, np.float32))
    files = (tmp_path / "huge.npy", tmp_path / "fine.npy")
    weights = save(tmp_path)
    flags = ("--weights", weights, "--pixels", "float32", "--json")
    status, out, err = predict(capsys, *files, *flags)
    assert status == 1
    (line,) = out.splitlines()
    assert json.loads(line)["image"] == str(files[1])
    assert err.startswith(f"error: {files[0]}: the value 3.0000000054977558e+38 of channel 0 is")


def test_a_link_to_nothing_is_named_and_the_others_answered(tmp_path: Path, capsys) -> None:
    weights, folder = save(tmp_path), images(tmp_path)
    (folder / "01.png").symlink_to("gone.png")
    status, out, err = predict(capsys, folder, "--weights", weights, "--json")
    assert status == 1
    assert [Path(json.loads(line)["image"]).name for line in out.splitlines()] == ["0.png", "1.png"]
    assert err.endswith(f"error: {folder}/01.png: No such file or directory\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "name image files, or folders of them"),
        (("{folder}/nothing.png",), "nothing.png does not exist"),
        (("{empty}",), "holds no jpg, jpeg, png"),
        (("{folder}", "--top", "0"), "top=0 must be at least 1"),
        (("{folder}", "--weights", "{folder}/x.safetensors"), "x.safetensors do not exist"),
        (("{folder}", "--weights", "{folder}"), "do not exist; make them with fcmae finetune"),
        (("{folder}", "--weights", "{folder}/0.png"), "make it with fcmae finetune"),
        (("{folder}", "--batch_size", "0"), "batch_size=0 must be at least 1"),
        (("{folder}", "--weights", "{headless}"), "has no head; fine-tune it with"),
    ],
)
def test_bad_input_ends_in_one_line(
    argv: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcmae.weights.timm_models import save_timm
    from finetune.models.backbone import backbone

    weights, folder = save(tmp_path), images(tmp_path)
    (tmp_path / "empty").mkdir()
    model, metadata = backbone("none", TINY)
    headless = tmp_path / "encoder.safetensors"
    save_timm(headless, model.state_dict(), metadata)
    places = {"folder": folder, "empty": tmp_path / "empty", "headless": headless}
    flags = [part.format(**places) for part in argv]
    flags += [] if "--weights" in argv else ["--weights", str(weights)]
    monkeypatch.setattr(sys, "argv", ["finetune.predict", *flags])
    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_the_program_prints_a_table(tmp_path: Path) -> None:
    weights, folder = save(tmp_path), images(tmp_path)
    flags = ("--weights", weights)
    done = run("-m", "finetune.predict", folder, *flags, env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "class (probability)" in done.stdout


@pytest.mark.parametrize("fit", ["crop", "pad", "squash", "tiles"])
def test_a_segmenter_gives_masks_as_large_as_the_pictures(tmp_path: Path, capsys, fit: str) -> None:
    """Of a head that answers class 1 everywhere."""
    weights, folder = tmp_path / "weights.safetensors", tmp_path / "images"
    config = BackboneConfig(random=TINY, head_init_scale=1.0)
    model, metadata = segmenter.create(config, 3, 32, 0)
    with torch.no_grad():
        bias = model.head.classify.bias
        assert bias is not None
        bias[1] += 100.0
    segmenter.save(weights, model, metadata, ["sky", "soil", "sea"])
    folder.mkdir()
    (folder / "wide.png").write_bytes(png(0, (40, 131)))
    flags = ("--weights", weights, "--json", "--fit", fit)
    status, out, err = predict(capsys, folder, *flags, "--masks", tmp_path / "masks")
    assert status == 0, err
    line = json.loads(out)
    assert line["top"][0] == {"class": "soil", "share_of_pixels": 1.0}
    with Image.open(line["mask"]) as opened:
        mask = np.array(opened)
    assert mask.shape == (40, 131)
    looked = np.isin(mask, 1).mean(0) == 1
    assert looked.sum() == (pytest.approx(40, abs=3) if fit == "crop" else 131)
    assert (mask[:, ~looked] == 255).all()
    assert json.loads(predict(capsys, folder, *flags)[1]).keys() == {"image", "top"}


def test_pasted_masks_are_those_of_the_model(tmp_path: Path) -> None:
    layout = layout_of(16, 40, (16, 16), "tiles")
    whole = torch.randn(3, 16, 40)
    tiles = torch.stack([whole[:, :, left : left + 16] for _, left in layout.corners])
    assert torch.equal(pasted(tiles, layout), whole.argmax(0).byte())


def test_masks_of_a_classifier_are_refused(tmp_path: Path) -> None:
    weights, folder = save(tmp_path), images(tmp_path)
    with pytest.raises(ValueError, match=r"is no segmenter: leave --masks out"):
        main([str(folder), "--weights", str(weights), "--masks", str(tmp_path / "masks")])
