"""What users choose of any run; a help text shows it without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fcmae.run.ranges import Count, Positive, Seconds
from fcmae.run.threads import ThreadsConfig

Precision = Literal["fp32", "bf16", "fp16"]
BEFORE = {"precision": "fp32", "compile": False}  # what runs did whose config does not tell it


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(ThreadsConfig):
    """How steps are computed; what `auto` chooses stands in the config of the run."""

    precision: Precision | Literal["auto"] = "auto"
    """bf16 and fp16 are mixed precision: weights and statistics stay float32. fp16 scales the
    loss, and takes no step where the gradient overflows. auto: bf16 on a GPU that computes in it,
    with TF32 for what stays in float32; elsewhere fp32."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the model with torch.compile, which rounds otherwise. auto: on a GPU of CUDA, in
    pretraining but with FSDP2 or a model of timm, in fine-tuning from 100,000 images on, counted
    over all epochs; embedding and evaluation compile there from as many images a process on,
    whatever this says."""
    deterministic: bool = True
    """Take deterministic operations alone: on one kind of GPU, two runs are then equal to the last
    bit, and so are a run that was killed and resumed and one that was not."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What cannot change a number, of pretraining and of fine-tuning."""

    save_every: Count | None = 500
    """Steps between checkpoints; one is always written at the end. None leaves it to save_minutes.
    """
    save_minutes: Positive | None = None
    """Minutes after the last checkpoint in which another one is begun, whatever the step."""
    keep: Count = 3
    """Checkpoints to keep, the newest ones."""
    keep_every: Count | None = None
    """Keep for good, too, those whose step is a multiple of this."""
    log_every: Count = 10
    """Steps between lines of metrics.jsonl; only then does the device have to be waited for."""
    verify: bool = True
    """Compare the shards with their SHA-256 before step 0; sizes are always compared."""
    timeout: Seconds = 600.0
    """Seconds after which processes give up on one that does not answer."""
    compile_cache: Path | None = None
    """Directory of compiled code, which the next start finds there. None: what
    TORCHINDUCTOR_CACHE_DIR says, or .compile beside the directory of the run. Triton keeps kernels
    of ours where TRITON_CACHE_DIR says."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl; each needs its package."""
