"""What users choose of a run that changes no number of it; a help text shows it without torch."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What cannot change a number, of pretraining and of fine-tuning."""

    save_every: int | None = 500
    """Steps between checkpoints; one is always written at the end. None leaves it to save_minutes.
    """
    save_minutes: float | None = None
    """Minutes after the last checkpoint in which another one is begun, whatever the step."""
    keep: int = 3
    """Checkpoints to keep, the newest ones."""
    keep_every: int | None = None
    """Keep for good, too, those whose step is a multiple of this."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl; only then does the device have to be waited for."""
    verify: bool = True
    """Compare the shards with their SHA-256 before step 0; sizes are always compared."""
    timeout: float = 600.0
    """Seconds after which processes give up on one that does not answer."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl; each needs its package."""

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: an interval, or the number of checkpoints to keep, is below 1; or the
                minutes between checkpoints are not above 0.
        """
        for name in ("save_every", "keep", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name}={value} must be at least 1")
        if self.save_minutes is not None and not self.save_minutes > 0:
            raise ValueError(f"run.save_minutes={self.save_minutes} must be above 0")
