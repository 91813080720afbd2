"""Pretrain a ConvNeXt with FCMAE on WebDataset shards.

    accelerate launch --quiet pretrain.py scripts/recipes/demo.yaml --run.dir runs/demo

Restarting the same command resumes from the last checkpoint.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

from data.broken import BrokenSamples
from data.index import statistics
from data.order import GlobalBatches, Order
from data.pipeline import DataConfig, train_loader
from data.shards import open_shards
from data.transforms import Normalise
from fcmae import FCMAE, checkpoint
from fcmae.checkpoint import TrainState
from fcmae.config import differences, parse, run_program, to_tree, to_yaml
from fcmae.masking import draw_visible_of
from fcmae.model import ModelConfig
from fcmae.optim import OptimConfig, lr_at, parameter_groups, total_steps, warmup_steps
from fcmae.reconstruct import reconstruct
from fcmae.weights import InitConfig, load_encoder


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What cannot change a number."""

    dir: Path
    """Directory of the run: config, metrics, checkpoints, pictures."""
    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep: int = 3
    """Checkpoints to keep, the newest ones."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    picture_every: int = 500
    """Steps between reconstruction grids, also drawn at the end; 0 draws none."""
    verify: bool = True
    """Compare the shards with their SHA-256 before step 0; sizes are always compared."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """FCMAE pretraining."""

    data: DataConfig
    run: RunConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    """Of initialisation, order, crops and masks."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is mixed precision: weights and statistics stay float32."""


def main(argv: Sequence[str]) -> None:
    """Set up, resume, train, save."""
    config = parse(PretrainConfig, argv, description=str(__doc__))
    optim, run = config.optim, config.run
    for name in ("save_every", "keep", "log_every"):
        if getattr(run, name) < 1:
            raise ValueError(f"run.{name}={getattr(run, name)} must be at least 1")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # unless told, it starts no processes on CPUs
        mixed_precision="no" if config.precision == "fp32" else config.precision,
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched but accelerate sees {accelerator.num_processes}"
            f" on {accelerator.device}: launch one, or set ACCELERATE_USE_CPU=1"
        )

    shards = open_shards(config.data.train, run.verify, config.data.source)
    if not (config.data.mean and config.data.std):
        mean, std = statistics(shards)
        own = replace(config.data, mean=config.data.mean or mean, std=config.data.std or std)
        config = replace(config, data=own)
    order = Order([shard.samples for shard in shards], config.seed, config.data.window)
    bad = BrokenSamples(order.samples, config.data.max_bad_fraction)
    total, warmup = total_steps(optim, order.samples), warmup_steps(optim, order.samples)
    model = FCMAE(**vars(config.model), generator=torch.Generator().manual_seed(config.seed))
    newest = checkpoint.latest(run.dir)
    if config.init.weights is not None:
        if newest is None:
            accelerator.print(load_encoder(model.encoder, config.init.weights, config.model))
        else:
            accelerator.print(f"init.weights={config.init.weights} is ignored: {run.dir} resumes")
    groups = parameter_groups(model.named_parameters(), optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=optim.base_lr, betas=optim.betas)

    open_run(config, accelerator)
    # Never prepare the loader: it is sharded. Load after: prepare moves AdamW's step to the device.
    trained, optimizer = accelerator.prepare(model, optimizer)
    state = TrainState()
    if newest is not None:
        state = checkpoint.load(newest, model, optimizer.optimizer)
        accelerator.print(f"resuming from {newest}")
    if state.step >= total:
        accelerator.print(f"{run.dir} is complete at step {state.step} of {total}")
        return
    if accelerator.is_main_process:
        forget_after(run.dir / "metrics.jsonl", state.step)
    batches = GlobalBatches(
        order,
        batch_size=optim.batch_size,
        start=state.samples_seen,
        steps=total - state.step,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        micro_batches=optim.accumulate,
    )
    normalise = Normalise(config.data.mean, config.data.std, config.model.in_chans)
    normalise.to(accelerator.device)
    loader = train_loader(
        shards,
        config.data,
        batches,
        size=model.image_size,
        in_chans=config.model.in_chans,
        pin_memory=accelerator.device.type == "cuda",
    )
    trained.train()
    accelerator.print(
        f"{config.model.name} with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"
        f" parameters, {order.samples} images, {total} steps of {optim.batch_size}"
        f" on {accelerator.num_processes} x {accelerator.device.type}"
    )

    micro_batches = iter(loader)
    images = visible = prediction = torch.empty(0)  # the last micro-batch, for pictures
    # since the last log: steps whose loss is not finite, samples that this process found broken
    infinite, found = torch.zeros((), device=accelerator.device), list[str]()
    since, logged = time.perf_counter(), state.step
    steps = tqdm(
        range(state.step, total),
        initial=state.step,
        total=total,
        unit="step",
        disable=not (accelerator.is_main_process and sys.stderr.isatty()),
    )
    for step in steps:
        lr = lr_at(
            step,
            total=total,
            warmup=warmup,
            base_lr=optim.base_lr,
            batch_size=optim.batch_size,
            min_lr=optim.min_lr,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = torch.zeros((), device=accelerator.device)
        for micro in range(1, optim.accumulate + 1):
            batch = next(micro_batches)
            found += bad.new(batch["broken"])
            images = normalise(batch["image"].to(accelerator.device, non_blocking=True))
            visible = draw_visible_of(
                config.seed, batch["epoch"], batch["sample"], model.n, config.model.ratio
            ).to(accelerator.device, non_blocking=True)
            with accelerator.no_sync(trained) if micro < optim.accumulate else nullcontext():
                part, prediction = trained(images, visible)
                accelerator.backward(part / optim.accumulate)
            loss += part.detach() / optim.accumulate
        if optim.clip_grad is not None:
            accelerator.clip_grad_norm_(trained.parameters(), optim.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        infinite += ~loss.isfinite()
        state = TrainState(step + 1, state.samples_seen + optim.batch_size)

        last = state.step == total
        saving = last or state.step % run.save_every == 0
        if saving or state.step % run.log_every == 0:
            sums = torch.stack([loss, infinite, torch.full_like(loss, len(found))])
            total_loss, failures, any_found = cast(
                "Tensor", accelerator.reduce(sums, "sum")
            ).tolist()
            mean_loss = total_loss / accelerator.num_processes
            if failures:
                raise FloatingPointError(
                    f"the loss is not finite between steps {logged} and {state.step} (lr {lr:.2g});"
                    f" newest checkpoint: {checkpoint.latest(run.dir)}; lower optim.base_lr, set"
                    " optim.clip_grad, lengthen the warm-up, or take precision fp32"
                )
            if any_found:  # every process learns of them, and stops where one does
                for message in bad.add(gather_object(found)):
                    accelerator.print(f"skipped {message}")
                found = []
            now = time.perf_counter()
            speed = (state.step - logged) * optim.batch_size / (now - since)
            since, logged = now, state.step
            if accelerator.is_main_process:
                line = {
                    "step": state.step,
                    "samples_seen": state.samples_seen,
                    "loss": mean_loss,
                    "lr": lr,
                    "images_per_s": round(speed, 2),
                    "bad_samples": bad.by_shard(),
                }
                with (run.dir / "metrics.jsonl").open("a") as metrics:
                    print(json.dumps(line), file=metrics)
                eta = tqdm.format_interval((total - state.step) * optim.batch_size / speed)
                steps.set_postfix_str(f"loss {mean_loss:.4f}, {speed:.0f} images/s")
                if steps.disable:
                    print(
                        f"step {state.step}/{total}  loss {mean_loss:.4f}  lr {lr:.2e}"
                        f"  {speed:.0f} images/s  ETA {eta}",
                        flush=True,
                    )
        drawing = run.picture_every and (last or state.step % run.picture_every == 0)
        if drawing and accelerator.is_main_process:
            views = reconstruct(images[:8], visible[:8], prediction[:8].detach(), model.patch_size)
            draw(normalise.inverse(views), run.dir / "pictures" / f"step_{state.step:07d}.png")
        if saving:
            if accelerator.is_main_process:
                checkpoint.save(
                    run.dir, state, model, optimizer.optimizer, to_yaml(config), run.keep
                )
            accelerator.wait_for_everyone()
    accelerator.end_training()


def open_run(config: PretrainConfig, accelerator: Accelerator) -> None:
    """Write config.yaml into the run directory, or compare with it; add to environment.json.

    Raises:
        ValueError: the directory holds checkpoints whose config differs in what changes numbers.
        OSError: the directory is not writable.
    """
    written = config.run.dir / "config.yaml"
    if checkpoint.latest(config.run.dir) is not None and written.exists():
        differing = differences(
            yaml.safe_load(written.read_text()),
            to_tree(config),
            ignore=("run.", "data.workers", "data.source.", "data.max_bad_fraction"),
        )
        if differing:
            raise ValueError(
                f"{config.run.dir} holds a run with another config ({'; '.join(differing)});"
                " take these values back, or choose another --run.dir"
            )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        config.run.dir.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(written, to_yaml(config))
        starts = config.run.dir / "environment.json"
        earlier = json.loads(starts.read_text()) if starts.exists() else []
        checkpoint.write_text(starts, json.dumps([*earlier, environment(accelerator)], indent=2))
    accelerator.wait_for_everyone()


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """What the run's numbers may depend on beside its config; environment.json lists each start."""

    def git(*command: str) -> str | None:
        if shutil.which("git") is None:
            return None
        found = subprocess.run(
            ["git", "-C", Path(__file__).parent, *command], capture_output=True, text=True
        )
        return found.stdout.strip() if found.returncode == 0 else None

    status = git("status", "--porcelain")
    packages = [
        "torch",
        "torchvision",
        "timm",
        "accelerate",
        "webdataset",
        "numba",
        "numpy",
        "pillow",
    ]
    return {
        "command": sys.argv,
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "world_size": accelerator.num_processes,
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
    }


def forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that will be run again, and a half-written last line."""
    if metrics.exists():
        lines = metrics.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        checkpoint.write_text(metrics, "".join(kept))


def draw(views: Tensor, path: Path) -> None:
    """One row an image: original, visible, prediction, pasted. `views` is Float[b, 4, c, h, w]."""
    pixels = views.flatten(0, 1)
    colours = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1]
    path.parent.mkdir(exist_ok=True)
    save_image(colours, path, nrow=4, padding=2, pad_value=1.0)


if __name__ == "__main__":
    run_program(main)
