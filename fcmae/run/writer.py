"""The checkpoints of a run as training writes them: in a thread, and which of them stay."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fcmae.run import checkpoint
from fcmae.run.checkpoint import Files, TrainState
from fcmae.run.outages import Outage


class Writer:
    """Writes checkpoints in a thread, one at a time, while training goes on, and removes old ones.

    Of the checkpoints up to the one that was just written, the newest `keep` whole ones stay, and
    so do damaged ones among them, which do not count. Later ones stay, too: a run that passed over
    damaged checkpoints has not come to their steps yet.

    Args:
        run: the directory of the run.
        keep: number of whole checkpoints to keep, the newest ones.
        keep_every: keep for good, too, those whose step is a multiple of this.
    """

    def __init__(self, run: Path, keep: int, keep_every: int | None = None) -> None:
        self.run = run
        self.keep = keep
        self.keep_every = keep_every
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[Path] | None = None
        self.whole = dict[Path, bool]()  # of those that were written here, or looked at
        self.removing = Outage("and the next checkpoint tries again")

    def write(self, state: TrainState, files: Files, config_yaml: str, waiting: str = "") -> None:
        """Start to write a checkpoint, once the one before it is written.

        Args:
            state: the state of the run.
            files: the tensors of each file, as `snapshot` copies them.
            config_yaml: the resolved config.
            waiting: lines of metrics up to this step that are not in metrics.jsonl yet.

        Raises:
            OSError: the one before could not be written; the message names the one that is kept.
        """
        self.wait()
        self.writing = self.thread.submit(self._save, state, files, config_yaml, waiting)

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is on the disk.

        Raises:
            OSError: it could not be written; the message names the one that is kept.
        """
        writing = self.writing
        self.writing = None
        if writing is not None:
            writing.result()

    def failed(self) -> bool:
        """Whether the last write has failed already; `wait` raises its error."""
        return self.writing is not None and self.writing.done() and bool(self.writing.exception())

    def _save(self, state: TrainState, files: Files, config_yaml: str, waiting: str) -> Path:
        try:
            path = checkpoint.save(self.run, state, files, config_yaml, waiting)
        except OSError as error:
            newest = whole_one(self.run)
            kept = f"{newest} is kept" if newest else "there is none before it"
            then = "goes on from there" if newest else "begins again"
            raise OSError(
                f"{error}; {kept}: make room, or let it be written, and the same command {then}"
            ) from error
        self.whole[path] = True
        with self.removing.spared(f"removing old checkpoints of {self.run}"):
            self._drop_old(path)
        return path

    def _drop_old(self, written: Path) -> None:
        """Remove all checkpoints before `written` that do not stay.

        Raises:
            OSError: one of them cannot be removed; all others are.
        """
        errors = list[OSError]()
        kept = 0
        for path in reversed(checkpoint.checkpoints(self.run)):
            step = checkpoint.step_of(path)
            if step > checkpoint.step_of(written):
                continue
            if kept < self.keep:
                kept += self._is_whole(path)
            elif self.keep_every is None or step % self.keep_every:
                try:
                    checkpoint.remove(path)
                except OSError as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def _is_whole(self, path: Path) -> bool:
        """Whether the sums of a checkpoint are right, which is looked at once."""
        if path not in self.whole:
            self.whole[path] = is_whole(path)
        return self.whole[path]


def is_whole(path: Path) -> bool:
    """Whether the files of a checkpoint are as its sums say."""
    try:
        checkpoint.check(path)
    except ValueError:
        return False
    return True


def whole_one(run: Path) -> Path | None:
    """The newest checkpoint that is whole, which the run would go on from, if there is one."""
    return next(filter(is_whole, reversed(checkpoint.checkpoints(run))), None)
