"""Kill short runs at random moments a thousand times, and compare each bit for bit; see soak.sh."""

import json
import signal
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal, get_args

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.ranges import Count, Seed
from fcmae.run.tables import print_table
from fcmae.run.terminal import say

Name = Literal["one", "two", "accumulation", "ema", "bf16", "fp16", "fsdp2", "workers"]
ENDING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """Kill runs of several modes at random moments, and compare each with one that was left alone.

    A line tells of each kill. The same command goes on after an interruption, and with more kills.
    """

    kills: Count = 1000
    """Number of SIGKILLs over all modes, those of earlier pieces in this directory included."""
    modes: tuple[Name, ...] = get_args(Name)
    """What is killed: one and two processes, accumulated micro-batches, averaged weights, both half
    precisions, parameters in shards, and another number of data workers at each start."""
    lanes: Count = 2
    """Modes at a time; one for each core."""
    dir: Path = Path("runs/soak")
    """Directory of the runs, of what they print, and of kills.jsonl, the log."""
    seed: Seed = 0
    """Seed of moments and victims."""


def main(argv: Sequence[str]) -> None:
    """Kill and compare, and print a table.

    Raises:
        ValueError: a start failed, or a run differs from the one that was left alone.
    """
    config = parse(SoakConfig, argv, description=str(SoakConfig.__doc__))
    # here: they bring torch, which the help text does without
    from scripts.kills.forked import server
    from scripts.kills.soaking import LOG, Soak, read_log

    for number in ENDING:  # also in the background, where a shell has SIGINT ignored
        signal.signal(number, interrupt)
    folder = config.dir.resolve()
    forking = server()
    kills, rest = divmod(config.kills, len(config.modes))
    waiting = deque((name, kills + (i < rest)) for i, name in enumerate(config.modes))
    told = SimpleQueue[dict[str, Any] | Exception | None]()

    def lane() -> None:
        while waiting:
            name, number = waiting.popleft()
            try:
                for line in Soak(name, forking, folder, config.seed).kills(number):
                    told.put(line)
                told.put(None)
            except Exception as error:  # the other modes go on
                told.put(error)

    for _ in range(min(config.lanes, len(config.modes))):
        Thread(target=lane, daemon=True).start()
    errors = list[Exception]()
    left = len(config.modes)
    while left:
        line = told.get()
        if isinstance(line, dict):
            with (folder / LOG).open("a") as log:
                print(json.dumps(line), file=log)
            say(sentence(line), flush=True)
            continue
        left -= 1
        if line is not None:
            errors.append(line)
            say(f"error: {line}", flush=True)
    print_table("", *table(read_log(folder)))
    if errors:
        raise ValueError(f"{len(errors)} of {len(config.modes)} modes failed, first: {errors[0]}")
    say("every run equals, to the last bit, the one of its mode that was left alone")


def interrupt(*_: object) -> None:
    """End once, in peace: what has been started is ended, too.

    Raises:
        KeyboardInterrupt: always.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def sentence(line: Mapping[str, Any]) -> str:
    """Describe a kill in a line."""
    return (
        f"{line['mode']}, kill {line['kill']}: {line['victim']} after {line['seconds']} s, aimed at"
        f" {line['aim']}, hit {line['found']}; left {line['steps']} steps, checkpoint"
        f" {line['checkpoint']}"
    )


def table(lines: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Count kills by mode and by the moment that they hit: the columns and rows of a table."""
    from scripts.kills.moments import FOUND

    counted = Counter((line["mode"], line["found"]) for line in lines)
    modes = list(dict.fromkeys(mode for mode, _ in counted))
    rows = {mode: [counted[mode, moment] for moment in FOUND] for mode in modes}
    rows["all"] = [sum(counted[mode, moment] for mode in modes) for moment in FOUND]
    return ["mode", *FOUND, "all"], [[name, *row, sum(row)] for name, row in rows.items()]


if __name__ == "__main__":
    run_program(main)
