"""scripts/launch: what accelerate, Slurm and Kubernetes are given starts the run that it says.

GPUs, Slurm and Kubernetes are not here. Their files are read as their programs would, and run on
two CPU processes, under stand-ins for srun and scontrol and with two torchruns in place of pods.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from data.shards.addresses import is_remote
from fcmae.run import checkpoint
from fcmae.run.config import parse
from fcmae.run.metrics import read_metrics
from fcmae.run.stopping import PREEMPTED
from finetune.training.pretraining import PretrainConfig
from tests.support.programs import ROOT
from tests.support.runs import RECIPE, SHORT

LAUNCH = ROOT / "scripts" / "launch"
CONFIGS = sorted(p.name for p in LAUNCH.glob("*.yaml") if p.name != "kubernetes.yaml")
LONG = ("--optim.steps", "2000", "--run.picture_every", "0")  # minutes, should no signal come

# One node's srun: its options, its variables, and its status, in which signals come first.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys, time
at = sys.argv.index("bash")
options, command = dict(word[2:].split("=") for word in sys.argv[1:at]), sys.argv[at:]
tasks = [
    subprocess.Popen(
        command,
        env=os.environ | {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}},
        start_new_session=True,
    )
    for rank in range(int(os.environ["SLURM_NTASKS"]))
]
with open(os.environ["STUB_TASKS"], "w") as file:
    print(*(task.pid for task in tasks), file=file)
ends, kill = None, options["kill-on-bad-exit"] != "0"
while None in (statuses := [task.poll() for task in tasks]):
    if ends is None and statuses != [None] * len(tasks):
        ends = time.monotonic() + float(options["wait"])
    if (ends and time.monotonic() > ends) or (kill and any(statuses)):
        for task in tasks:
            task.terminate()
        time.sleep(1)
        for task in tasks:
            task.kill()
    time.sleep(0.01)
print("statuses", *statuses)
sys.exit(128 - min(statuses) if min(statuses) < 0 else max(statuses))
"""
SCONTROL = """#!/usr/bin/env bash
case "$1 $2" in
    "show hostnames") tr , '\\n' <<< "$3" ;;
    "show job") printf 'JobId=%s JobName=fcmae\\n   JobState=%s\\n' "$3" "$STUB_STATE" ;;
    *) echo "$@" >> "$STUB_CALLS" ;;
esac
"""


def config(name: str) -> ClusterConfig:
    """What accelerate reads; it refuses keys that it does not know."""
    found = load_config_from_file(str(LAUNCH / name))
    assert isinstance(found, ClusterConfig)
    return found


def starts(run: Path) -> list[tuple[int, bool]]:
    """World size and FSDP2 of each start of a run."""
    found = json.loads((run / "environment.json").read_text())
    return [(start["world_size"], start["fsdp"]) for start in found]


def wait_for(path: Path, *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_knows_every_key_of_a_config(name: str) -> None:
    found, size = config(name), re.fullmatch(r"[cg]pu(\d)(_fsdp2)?\.yaml", name)
    assert size
    assert found.num_processes == int(size[1])
    assert found.num_machines == 1
    assert found.mixed_precision == "no"
    assert found.use_cpu == name.startswith("cpu")
    kind = "FSDP" if size[2] else "NO" if size[1] == "1" else "MULTI_GPU"
    assert found.distributed_type == kind
    assert found.fsdp_config == ({"fsdp_version": 2} if size[2] else {})
    assert "fsdp_version" in vars(launch_command_parser().parse_args(["program"]))
    assert f"scripts/launch/{name} " in (LAUNCH / name).read_text()


def test_configs_of_cpus_are_those_of_gpus_with_two_processes() -> None:
    for end in ("", "_fsdp2"):
        gpus, cpus = config(f"gpu8{end}.yaml"), config(f"cpu2{end}.yaml")
        assert cpus == dataclasses.replace(gpus, num_processes=2, use_cpu=True)


@pytest.mark.dist
@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("cpu")])
@pytest.mark.slow
def test_accelerate_starts_two_processes_on_cpus(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(LAUNCH / name), "pretrain.py", RECIPE),
            *("--run.dir", str(tmp_path / "run"), *SHORT, "--optim.steps", "2"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert starts(tmp_path / "run") == [(2, "fsdp2" in name)]
    assert len(read_metrics(tmp_path / "run")) == 2


def test_the_slurm_script_has_no_syntax_errors() -> None:
    assert subprocess.run(["bash", "-n", LAUNCH / "slurm.sh"]).returncode == 0
    if checker := shutil.which("shellcheck"):
        assert subprocess.run([checker, LAUNCH / "slurm.sh"]).returncode == 0


def test_the_slurm_script_asks_for_a_task_a_gpu_and_a_signal_to_the_step() -> None:
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    asked = [line for line in lines if line.startswith("#SBATCH ")]
    assert asked == [line for line in lines[:first] if line.startswith("#SBATCH ")]  # those read
    parts = [line.removeprefix("#SBATCH --").partition("=") for line in asked]
    options = {name: value for name, _, value in parts}
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"] == "USR1@180"
    assert options["open-mode"] == "append"
    assert "requeue" in options


def slurm(folder: Path, *flags: str, **variables: str) -> subprocess.Popen[str]:
    """Run a copy of slurm.sh, from elsewhere, as sbatch does, with the stand-ins first in PATH."""
    shutil.copy(LAUNCH / "slurm.sh", folder / "slurm_script")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        if not (folder / name).exists():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
    return subprocess.Popen(
        ["bash", folder / "slurm_script", RECIPE, *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {
            "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.defpath]),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "localhost,elsewhere",
            "SLURM_NTASKS": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "OMP_NUM_THREADS": "1",
            "STUB_TASKS": str(folder / "tasks"),
            "STUB_CALLS": str(folder / "calls"),
            "STUB_STATE": "RUNNING",
        }
        | variables,
    )


@pytest.mark.parametrize(
    ("status", "state", "requeued"),
    [
        (0, "RUNNING", False),
        (1, "RUNNING", False),
        (75, "RUNNING", True),
        (75, "COMPLETING", False),  # cancelled, or requeued by Slurm
        (130, "RUNNING", False),
        (143, "RUNNING", False),
    ],
)
def test_a_slurm_job_is_requeued_after_status_75_alone(
    status: int, state: str, requeued: bool, tmp_path: Path
) -> None:
    (tmp_path / "srun").write_text(f"#!/usr/bin/env bash\nexit {status}\n")
    (tmp_path / "srun").chmod(0o755)
    job = slurm(tmp_path, STUB_STATE=state)
    job.communicate()
    assert job.returncode == status
    calls = tmp_path / "calls"
    assert calls.exists() == requeued
    if requeued:
        assert calls.read_text() == f"requeue {os.getpid()}\n"


@pytest.mark.slow
@pytest.mark.dist
def test_a_slurm_job_trains_in_all_its_tasks_and_ends_with_0(tmp_path: Path) -> None:
    job = slurm(tmp_path, "--run.dir", str(tmp_path / "run"), *SHORT, "--optim.steps", "2")
    out, _ = job.communicate()
    assert job.returncode == 0, out
    assert starts(tmp_path / "run") == [(2, False)]
    assert len(read_metrics(tmp_path / "run")) == 2
    assert not (tmp_path / "calls").exists()


@pytest.mark.slow
@pytest.mark.dist
def test_a_slurm_job_that_is_signalled_saves_requeues_and_goes_on(tmp_path: Path) -> None:
    run, fsdp = tmp_path / "run", {"ACCELERATE_USE_FSDP": "true"}
    job = slurm(tmp_path, "--run.dir", str(run), *SHORT, *LONG, **fsdp)
    wait_for(run / "step_0000002", job)
    for task in (tmp_path / "tasks").read_text().split():
        os.killpg(int(task), signal.SIGUSR1)  # workers too, as Slurm signals a step
    out, _ = job.communicate()
    assert job.returncode == PREEMPTED, out
    assert "statuses 75 75" in out
    assert (tmp_path / "calls").read_text() == f"requeue {os.getpid()}\n"
    newest = checkpoint.latest(run)
    assert newest is not None
    step = checkpoint.step_of(newest)
    assert f"SIGUSR1: stopped and saved at step {step}" in out

    job = slurm(
        tmp_path,
        "--run.dir",
        str(run),
        *SHORT,
        "--optim.steps",
        str(step + 1),
        STUB_STATE="",
        **fsdp,
    )
    out, _ = job.communicate()
    assert job.returncode == 0, out
    assert f"resuming from {newest}" in out
    assert starts(run) == [(2, True), (2, True)]
    assert [line["step"] for line in read_metrics(run)] == list(range(1, step + 2))


def kubernetes() -> dict[str, dict[str, Any]]:
    objects = list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))
    found = {thing["kind"]: thing for thing in objects}
    assert len(found) == len(objects)
    return found


def container() -> dict[str, Any]:
    (only,) = kubernetes()["Job"]["spec"]["template"]["spec"]["containers"]
    return only


def environment_of(index: int) -> dict[str, str]:
    """A pod's variables; the one that a field gives is its index."""
    found = {entry["name"]: entry.get("value", str(index)) for entry in container()["env"]}
    (field,) = (entry for entry in container()["env"] if "valueFrom" in entry)
    path = field["valueFrom"]["fieldRef"]["fieldPath"]
    assert (field["name"], path) == (
        "PET_NODE_RANK",
        "metadata.annotations['batch.kubernetes.io/job-completion-index']",
    )
    return found


def test_the_pods_of_the_job_are_its_nodes_and_find_pod_0(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kubernetes()
    job, service = found["Job"], found["Service"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    for name, value in environment_of(1).items():
        monkeypatch.setenv(name, value)
    assert container()["command"] == ["torchrun"]
    torchrun = get_args_parser().parse_args(container()["args"])
    assert torchrun.nnodes == str(spec["completions"])
    assert torchrun.nproc_per_node == container()["resources"]["limits"]["nvidia.com/gpu"]
    assert int(torchrun.node_rank) == 1
    assert torchrun.rdzv_backend == "static"
    assert torchrun.max_restarts == 0
    # Kubernetes names the pods of an Indexed Job JOB-INDEX, and gives them the label job-name
    assert torchrun.master_addr == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_a_disrupted_pod_has_time_to_save_and_does_not_count() -> None:
    spec = kubernetes()["Job"]["spec"]
    pod = spec["template"]["spec"]
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    ]
    assert pod["restartPolicy"] == "Never"  # or the policy is refused
    assert spec["backoffLimit"] > 0
    # torchrun kills after its own time-out, 30 s unless told
    assert (
        30 < int(environment_of(0)["PET_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    )


def test_the_pods_share_the_run_directory_and_have_what_they_mount() -> None:
    found = kubernetes()
    claim, pod = found["PersistentVolumeClaim"], found["Job"]["spec"]["template"]["spec"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    runs = volumes["runs"]["persistentVolumeClaim"]["claimName"]
    assert runs == claim["metadata"]["name"]

    program, *flags = container()["args"]
    assert program == "pretrain.py"
    parsed = parse(PretrainConfig, flags, description="test")
    assert str(parsed.run.dir).startswith(mounts["runs"] + "/")
    assert str(parsed.data.source.cache) == mounts["cache"]
    assert all(is_remote(url) for url in parsed.data.train)  # nothing else is mounted
    limit = volumes["cache"]["emptyDir"]["sizeLimit"]
    assert parsed.data.source.cache_gb * 1e9 < int(limit.removesuffix("Gi")) * 2**30
    cpus = int(container()["resources"]["requests"]["cpu"])
    assert isinstance(parsed.data.workers, int)
    assert cpus >= int(environment_of(0)["PET_NPROC_PER_NODE"]) * (parsed.data.workers + 1)


@pytest.mark.slow
@pytest.mark.dist
def test_two_pods_meet_train_and_save_when_one_is_evicted(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here: Mapping[str, str] = {
        **{"PET_NPROC_PER_NODE": "1", "OMP_NUM_THREADS": "1"},
        **{"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)},
    }
    run = tmp_path / "run"
    flags = [RECIPE, "--run.dir", str(run), *SHORT, *LONG]
    pods = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "pretrain.py", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment_of(index) | here,
        )
        for index in range(2)
    ]
    wait_for(run / "step_0000002", *pods)
    pods[1].terminate()
    outs = [pod.communicate()[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [1, 1], outs
    assert starts(run) == [(2, False)]
    newest = checkpoint.newest_whole(run, print)
    assert newest is not None
    step = checkpoint.step_of(newest)
    assert f"SIGTERM: stopped and saved at step {step}" in outs[0]


def test_every_file_of_the_page_exists_and_every_file_is_on_it() -> None:
    text = (LAUNCH / "README.md").read_text()
    named = set(re.findall(r"scripts/[a-z0-9_/]+\.(?:yaml|sh|py)", text))
    assert all((ROOT / name).is_file() for name in named)
    files = {f"scripts/launch/{p.name}" for p in LAUNCH.iterdir() if p.name != "README.md"}
    assert files <= named
