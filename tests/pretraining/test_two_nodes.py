"""Two nodes: hosts of their own on one link, started as a scheduler does, and what parts them.

The hosts are Linux network namespaces joined by a veth pair. Node 0 is where the processes meet and
has the web server with the shards; the run directory lies on a file system that both see.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from braceexpand import braceexpand
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.run.metrics import count_metrics, read_metrics
from tests.support.programs import ROOT

pytestmark = [pytest.mark.dist, pytest.mark.slow]

DEMO = ROOT / "data/demo"
PREFIX, WIRE = "fcmae-nodes", "wire"
HOSTS = ("10.83.19.1", "10.83.19.2")
MEET, WEB = 29400, 8000  # ports of node 0, where nobody else listens
SHARDS = "train-{000000..000001}.tar.gz"
STEPS = 20

TIMEOUT = 10  # seconds of a collective operation
NAMING = 6  # for the others to say why they stop: fcmae.run.processes.PATIENCE and one more
WORKER = 5  # torch's MP_STATUS_CHECK_INTERVAL: a worker holds the sockets of its process so long
MARGIN = 15  # to take the interpreter down: 2 on idle cores, 6 on busy ones

FLAGS = [
    *("--optim.batch_size", "8", "--optim.steps", str(STEPS), "--data.workers", "1"),
    *("--run.log_every", "1", "--run.save_every", "3", "--run.picture_every", "0"),
    *("--model.decoder_dim", "32", "--run.timeout", str(TIMEOUT), "--data.source.read", "range"),
    *("--data.source.attempts", "2", "--data.source.timeout", "5"),
    *("--data.source.backoff", "0.5"),
]
AWAY = "died or cannot be reached; restart the same command to go on"
ONE_LOST = rf"rank 1 of 2 {AWAY}"
ZERO_LOST = rf"rank 0 of 2, where the processes meet, {AWAY}"

SERVE = """
import sys
from pathlib import Path
from tests.support.servers import Server
server = Server(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
print(server.url, file=sys.stderr, flush=True)
server.serve_forever()
"""


def do(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def remove(node: str) -> None:
    """End what runs on a node, and take the node away, and with it the wire."""
    for pid in do("ip", "netns", "pids", node).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    do("ip", "netns", "delete", node)


def remove_those_of_killed_tests() -> None:
    for line in do("ip", "netns", "list").splitlines():
        owner = re.match(rf"{PREFIX}-(\d+)-", line)
        if owner and not Path("/proc", owner[1]).exists():
            remove(line.split()[0])


class Nodes:
    """Two hosts on a wire; `folder` is on a file system that both have."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names, self.folder = names, folder

    def start(self, i: int, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command of this Python on node `i`; its process is that of the Popen."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[i], sys.executable, *command],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        )

    def pretrain(self, run: Path) -> list[subprocess.Popen[str]]:
        """One process on each, with the variables that a Slurm task would set for it."""
        url = f"http://{HOSTS[0]}:{WEB}/{SHARDS}"
        common = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        common |= {"MASTER_ADDR": HOSTS[0], "MASTER_PORT": str(MEET), "GLOO_SOCKET_IFNAME": WIRE}
        return [
            self.start(
                i,
                *("pretrain.py", "scripts/recipes/demo.yaml", "--run.dir", str(run), *FLAGS),
                *("--data.train", url, "--data.source.cache", str(self.folder / f"cache{i}")),
                RANK=str(i),
                **common,
            )
            for i in (0, 1)
        ]

    @contextmanager
    def parted(self) -> Iterator[None]:
        """Neither end reaches the other: what they send is lost, and the wire seems to be up."""
        for name in self.names:
            do("tc", "-n", name, "qdisc", "add", "dev", WIRE, "root", "blackhole")
        try:
            yield
        finally:
            for name in self.names:
                do("tc", "-n", name, "qdisc", "delete", "dev", WIRE, "root")


def build(names: list[str]) -> None:
    for name in names:
        do("ip", "netns", "add", name)
    ends = ("add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", names[1])
    do("ip", "-n", names[0], "link", *ends)
    for name, host in zip(names, HOSTS, strict=True):
        do("ip", "-n", name, "address", "add", f"{host}/24", "dev", WIRE)
        for device in ("lo", WIRE):
            do("ip", "-n", name, "link", "set", device, "up")
        do("tc", "-n", name, "qdisc", "add", "dev", WIRE, "root", "blackhole")
        do("tc", "-n", name, "qdisc", "delete", "dev", WIRE, "root")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("network namespaces are made by root on Linux")
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        pytest.skip(f"{' and '.join(missing)} of iproute2 not found")
    names = [f"{PREFIX}-{os.getpid()}-{i}" for i in (0, 1)]
    try:
        try:
            remove_those_of_killed_tests()
            build(names)
        except OSError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        nodes = Nodes(names, tmp_path_factory.mktemp("nodes"))
        with serving(nodes):
            yield nodes
    finally:
        for name in names:
            with suppress(OSError):  # it was not made
                remove(name)


@contextmanager
def serving(nodes: Nodes) -> Iterator[None]:
    """The shards, on a web server of node 0."""
    served = nodes.folder / "served"
    served.mkdir()
    for name in ("index.json", *braceexpand(SHARDS)):
        shutil.copy(DEMO / name, served)
    web = nodes.start(0, "-c", SERVE, str(served), HOSTS[0], str(WEB))
    assert web.stderr is not None
    try:
        assert web.stderr.readline() == f"http://{HOSTS[0]}:{WEB}\n", web.stderr.read()
        yield
    finally:
        web.kill()
        web.communicate()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process, from local shards; it compiles the loops of the later ones, too."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    start = [sys.executable, "pretrain.py", "scripts/recipes/demo.yaml", "--run.dir", str(run)]
    subprocess.run(
        [*start, *FLAGS, "--data.train", f"{DEMO}/{SHARDS}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return run


@pytest.fixture(scope="module")
def uninterrupted(nodes: Nodes, alone: Path) -> Path:
    """The run on two nodes, where nothing happens."""
    run = nodes.folder / "uninterrupted"
    finish(nodes.pretrain(run))
    return run


def finish(processes: list[subprocess.Popen[str]]) -> None:
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def until_logged(run: Path, steps: int, processes: list[subprocess.Popen[str]]) -> None:
    while count_metrics(run) < steps:
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def error_of(process: subprocess.Popen[str], deadline: float) -> str:
    """The one line with which a process ends by itself, before the deadline."""
    process.wait(max(0.0, deadline - time.monotonic()))
    stderr = process.communicate()[1]
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr
    (line,) = (line for line in stderr.splitlines() if line.startswith("error: "))
    return line.removeprefix("error: ")


def test_two_nodes_train_as_one_process_does(alone: Path, uninterrupted: Path) -> None:
    ours, theirs = read_metrics(uninterrupted), read_metrics(alone)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert [line["samples_seen"] for line in ours] == [line["samples_seen"] for line in theirs]
    ours, theirs = ([line["loss"] for line in lines] for lines in (ours, theirs))
    assert ours == pytest.approx(theirs, rel=1e-5)  # other sums of the same numbers: 2e-7


def test_a_link_that_goes_silent_ends_both_nodes_which_name_each_other_and_go_on(
    nodes: Nodes, uninterrupted: Path
) -> None:
    run = nodes.folder / "parted"
    processes = nodes.pretrain(run)
    until_logged(run, 7, processes)
    with nodes.parted():
        deadline = time.monotonic() + TIMEOUT + NAMING + MARGIN
        zero, one = (error_of(process, deadline) for process in processes)
        assert zero == ONE_LOST
        url = rf"http://{HOSTS[0]}:{WEB}/train-00000\d\.tar\.gz"
        assert re.fullmatch(rf"{ZERO_LOST}|{url} could not be read in 2 attempts .*", one)
        assert 7 <= len(read_metrics(run)) < STEPS

    finish(nodes.pretrain(run))
    ours, theirs = read_metrics(run), read_metrics(uninterrupted)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        a, b = (load_file(r / f"step_{STEPS:07d}" / name) for r in (run, uninterrupted))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_by_the_other(nodes: Nodes, alone: Path, victim: int) -> None:
    run = nodes.folder / f"killed{victim}"
    processes = nodes.pretrain(run)
    until_logged(run, 4, processes)
    processes[victim].kill()
    deadline = time.monotonic() + WORKER + NAMING + MARGIN
    assert error_of(processes[1 - victim], deadline) == (ZERO_LOST, ONE_LOST)[victim]
    processes[victim].communicate()
