"""What users choose of a run that changes no number of it; a help text shows it without torch."""

from dataclasses import dataclass
from typing import Literal

from fcmae.run.ranges import Count, Positive, Seconds

Precision = Literal["fp32", "bf16", "fp16"]


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
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl; each needs its package."""
