"""Programs that write, on a disk without room: the file is named, and nothing new is there."""

import json
from pathlib import Path
from typing import Any

import pytest

from fcmae.weights.timm_models import save_timm
from finetune.models import segmenter
from finetune.models.backbone import backbone
from finetune.models.config import BackboneConfig
from tests.support.images import write_images
from tests.support.models import TINY, TINY_FLAGS
from tests.support.namespaces import run_after
from tests.support.shards import write_colours

PROBE = ["--data.train", "{shards}/train-000000.tar", "--data.test", "{shards}/test-000000.tar"]
PROBE += ["--data.workers", "0", "--weights", "none", *TINY_FLAGS]
# a name: the program, its arguments, and the file that cannot be written, in the full directory
CASES: dict[str, tuple[str, list[str], str]] = {
    **{
        to: ("fcmae.convert", ["{weights}", f"{{full}}/{out}", "--to", to], out)
        for to, out in {
            "timm": "x.safetensors",
            "official": "x.pt",
            "official-sparse": "y.pth",
            "hub": "hub",
            "hf": "hf",
            "onnx": "x.onnx",
        }.items()
    },
    "export": ("finetune.export", ["{segmenter}", "{full}/s.onnx"], "s.onnx"),
    "masks": (
        "finetune.predict",
        ["--weights", "{segmenter}", "{images}", "--masks", "{full}/masks"],
        "masks/image0.png.png",
    ),
    "knn": ("finetune.knn", [*PROBE, "--out", "{full}/knn.json"], "knn.json"),
    "linear": ("finetune.linear_probe", [*PROBE, "--out", "{full}/lin.json"], "lin.json"),
    "embed": (
        "finetune.embed",
        ["{shards}/train-000000.tar", "{full}/e.parquet", *PROBE[4:]],
        "e.parquet.parts/plan.json",
    ),
    "baselines": (
        "scripts.baselines",
        [*(flag.replace("data.", "") for flag in PROBE[:4]), "--out", "{full}/b.json"],
        "b.json",
    ),
    "make": (
        "scripts.make_shards",
        ["{images}", "{full}/made", "--workers", "1"],
        "made/.train.plan/plan.json",
    ),
    "parts": ("data.parts", ["{full}/parts"], "parts/train-000000.tar"),
    "scenes": ("data.scenes", ["{full}/scenes"], "scenes/train-000000.tar"),
    "index": ("data.shards", ["index", "{full}/here-000000.tar"], "index.json"),
}

WAY_OUT = "make room on its disk, or name a place on another one"
CODE = """
import json, pathlib, runpy, shutil, sys
full = pathlib.Path({full!r})
shutil.copy({shards!r} + "/test-000000.tar", full / "here-000000.tar")
with (full / "filler").open("wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass

def files():
    return sorted(str(path.relative_to(full)) for path in full.rglob("*") if path.is_file())

before = files()
for name, (program, arguments, _) in {cases!r}.items():
    sys.argv = [program, *arguments]
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        told = "success"
    except SystemExit as end:
        told = str(end.code)
    print("ENDED", json.dumps([name, told, [file for file in files() if file not in before]]))
assert set(before) <= set(files())
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[str], Path]]:
    """What each program said at its end, the files that it left, and where the full disk is."""
    folder = tmp_path_factory.mktemp("disk")
    places = {name: folder / name for name in ("full", "shards", "images")}
    places["full"].mkdir()
    for name, n in (("train", 30), ("test", 12)):
        write_colours(places["shards"], name, n)
    write_images(places["images"], 3)
    places |= {name: folder / f"{name}.safetensors" for name in ("weights", "segmenter")}
    model, metadata = backbone("none", TINY)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_timm(places["weights"], tensors, metadata)
    config = BackboneConfig(random=TINY)
    segmenter.save(places["segmenter"], *segmenter.create(config, 2, 32, 0), ["sky", "soil"])
    texts = {name: str(path) for name, path in places.items()}
    cases = {
        name: (program, [word.format(**texts) for word in arguments], wanted)
        for name, (program, arguments, wanted) in CASES.items()
    }
    code = CODE.format(full=texts["full"], shards=texts["shards"], cases=cases)
    done = run_after(f"mount -t tmpfs -o size=1m tmpfs {texts['full']}", code)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line.removeprefix("ENDED ") for line in done.stdout.splitlines() if "ENDED " in line]
    told: list[Any] = [json.loads(line) for line in lines]
    return {name: (end, left, places["full"]) for name, end, left in told}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_full_disk_is_told_with_the_file_and_nothing_is_left(
    case: str, ends: dict[str, tuple[str, list[str], Path]]
) -> None:
    end, left, full = ends[case]
    assert end.startswith(f"error: {full}/{CASES[case][2]}")
    assert end.endswith(f" cannot be written: No space left on device; {WAY_OUT}")
    assert left == []
