"""What the launchers would run, what they refuse, and the linters' opinion of them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.conftest import ROOT, TRAIN, launch, printed

LAUNCH = ROOT / "launch"
POD = {"TPU_NAME": "nest", "PROJECT": "p", "ZONE": "us-west4-a"}
SCRIPTS = ("gke.sh", "local.sh", "slurm.sh", "tpu_pod.sh")
SHARED = ("again_after_74.sh", "lib.sh")


def tool(name):
    """Returns a linter that pip has put next to Python."""
    return str(Path(sys.executable).with_name(name))


def test_all_scripts_are_known():
    assert sorted(path.name for path in LAUNCH.glob("*.sh")) == sorted([*SCRIPTS, *SHARED])


def test_shellcheck():
    command = [tool("shellcheck"), "--external-sources", *SCRIPTS, *SHARED]
    done = subprocess.run(command, cwd=LAUNCH, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint():
    command = [tool("hadolint"), "--no-color", "Dockerfile"]
    done = subprocess.run(command, cwd=LAUNCH, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_has_what_a_bucket_needs_and_no_server_for_tests():
    """Of it launch/gke.sh makes pods, whose workdir must be in a bucket."""
    needed = {"requirements.txt", "requirements-buckets.txt"}
    text = (LAUNCH / "Dockerfile").read_text()
    (copied,) = re.findall("^COPY (req.*) ./$", text, re.M)
    assert set(copied.split()) == set(re.findall(r"-r (\S+)", text)) == needed
    assert not any("fake" in (ROOT / name).read_text() for name in needed)


def test_local_prints_a_command_for_each_process():
    environment = {"PYTHON": "py thon", "JAX_PLATFORMS": "cpu"}
    train = ["py thon", f"{ROOT}/train.py", *TRAIN]
    flags = ["--coordinator=localhost:8476", "--num_processes=3"]
    assert printed("local.sh", "-n", "3", "--dry_run", "--", *TRAIN, **environment) == [
        [*train, *flags, f"--process_id={i}"] for i in range(3)
    ]
    assert printed("local.sh", "-n", "1", "--", *TRAIN, DRY_RUN="1", **environment) == [train]


def test_local_shares_out_the_gpus(fakes):
    fakes.put("nvidia-smi", {"-L": ["".join(f"GPU {i}: H100 (UUID: x)\n" for i in range(4))]})
    arguments = ["--dry_run", "--", *TRAIN]

    def shares(n, **environment):
        done = fakes.run("local.sh", "-n", n, *arguments, **environment)
        return [shlex.split(line)[:2] for line in done.stdout.splitlines()] or done.stderr

    on_gpu = {"JAX_PLATFORMS": ""}
    assert shares("2", **on_gpu) == [
        ["env", "CUDA_VISIBLE_DEVICES=0,1"],
        ["env", "CUDA_VISIBLE_DEVICES=2,3"],
    ]
    few = {"CUDA_VISIBLE_DEVICES": "5,GPU-ab", **on_gpu}
    assert [share for _, share in shares("2", **few)] == [
        "CUDA_VISIBLE_DEVICES=5",
        "CUDA_VISIBLE_DEVICES=GPU-ab",
    ]
    assert "-n 3: 4 GPUs cannot be shared out evenly" in shares("3", **on_gpu)


def test_slurm_prints_its_commands():
    train = ["srun", "--kill-on-bad-exit=0", "--wait=150", "--label"]
    train += ["python", f"{ROOT}/train.py", *TRAIN]
    requeue = ["scontrol", "requeue", "JOB"]
    assert printed("slurm.sh", *TRAIN, DRY_RUN="1") == [[*train, "--distributed"], requeue]
    assert printed("slurm.sh", "--dry_run", "--", *TRAIN) == printed(
        "slurm.sh", *TRAIN, DRY_RUN="1"
    )
    alone = printed("slurm.sh", "--", *TRAIN, DRY_RUN="1", SLURM_NTASKS="1", SLURM_JOB_ID="7")
    assert alone == [train, ["scontrol", "requeue", "7"]]


def test_a_tpu_slice_prints_its_commands():
    place = ["--project=p", "--zone=us-west4-a"]
    queue = ["gcloud", "alpha", "compute", "tpus", "queued-resources"]
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    ssh = [*vm, "ssh", "nest", *place, "--worker=all"]
    kind = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"]
    create, describe, archive, copy, setup, train, delete = printed(
        "tpu_pod.sh", "--dry_run", "--", *TRAIN, **POD
    )
    assert create == [*queue, "create", "nest", "--node-id=nest", *place, *kind, "--spot"]
    assert describe == [*queue, "describe", "nest", *place, "--format=value(state.state)"]
    packed = "/tmp/nest.tar.gz"
    assert archive == [
        *("git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={packed}", "HEAD")
    ]
    assert copy == [*vm, "scp", packed, "nest:checkout.tar.gz", *place, "--worker=all"]
    assert setup == [
        *ssh,
        "--command=mkdir -p checkout && tar -xzf checkout.tar.gz -C checkout && cd checkout && "
        'python3 -m pip install -q -r requirements.txt -r requirements-buckets.txt "jax[tpu]"',
    ]
    assert delete == [*queue, "delete", "nest", *place, "--force", "--quiet"]
    # A shell on the host reads the last one again.
    assert train[:-1] == ssh
    assert shlex.split(train[-1].removeprefix("--command=")) == [
        *("cd", "checkout", "&&", "exec", "flock", "/tmp/train.lock"),
        *("python3", "train.py", *TRAIN, "--distributed"),
    ]
    kept = printed("tpu_pod.sh", "--", *TRAIN, DRY_RUN="1", SPOT="", **POD)[0]
    assert "--spot" not in kept


def jobset(*arguments, **environment):
    done = launch("gke.sh", "--dry_run", "--", *arguments, IMAGE="i:1", **environment)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_the_jobset_fails_on_errors_and_starts_again_on_all_else():
    made = jobset(*TRAIN, "--note=$(HOME) \"a\\b\"\n\t'c'", TOPOLOGY="4x8", SLICES="2")
    spec = made["spec"]
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert spec["failurePolicy"]["maxRestarts"] == 100
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    (slices,) = spec["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (2, 8, 8)
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = {"containerName": "train", "operator": "In", "values": [1, 2, 3, 74]}
    assert rule == {"action": "FailJob", "onExitCodes": codes}
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x8",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    note = "--note=$$(HOME) \"a\\b\"\n\t'c'"
    again = ["bash", "launch/again_after_74.sh", "python", "train.py"]
    assert container["command"] == [*again, *TRAIN, note, "--distributed"]
    kept = jobset(*TRAIN, SPOT="")["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert "tolerations" not in kept["template"]["spec"]


@pytest.mark.parametrize("spot", ["", "1"])
def test_the_jobs_of_the_jobset_have_kubernetes_own_schema(spot):
    """Strictly: a field that Kubernetes does not know is an error."""
    import kubernetes_validate

    made = jobset(*TRAIN, SPOT=spot)
    # JobSet's own fields, as its definition of v1alpha2 has them.
    assert made["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    assert made["spec"]["failurePolicy"].keys() == {"maxRestarts", "rules"}
    (slices,) = made["spec"]["replicatedJobs"]
    assert slices.keys() == {"name", "replicas", "template"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": made["metadata"]}
    job["spec"] = slices["template"]["spec"]
    kubernetes_validate.validate(job, "1.34", strict=True)
    job["spec"]["backofLimit"] = 0
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(job, "1.34", strict=True)


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "problem"),
    [
        ("local.sh", ["--", *TRAIN], {}, "N is not set: how many processes, such as -n 2"),
        ("local.sh", ["-n", "two", "--", *TRAIN], {}, "N=two: how many processes"),
        ("local.sh", ["-n", "2", *TRAIN], {}, f"unknown argument {TRAIN[0]}; usage: launch/loc"),
        ("local.sh", ["-n", "2", "--", TRAIN[0]], {}, "--workdir=FOLDER is missing after --"),
        ("local.sh", ["-n", "2", "--", TRAIN[1]], {}, "--config=FILE.py is missing after --"),
        ("local.sh", ["-n", "2", "--", *TRAIN], {"PORT": "x"}, "PORT=x: a free port"),
        ("slurm.sh", TRAIN[:1], {}, "--workdir=FOLDER is missing"),
        ("slurm.sh", TRAIN, {}, "this is no Slurm job; give it to sbatch"),
        ("slurm.sh", TRAIN, {"SLURM_SUBMIT_DIR": "/etc"}, "/etc is not the checkout; call sbatch"),
        ("tpu_pod.sh", ["--", *TRAIN], {}, "TPU_NAME is not set: the slice's name"),
        ("tpu_pod.sh", ["--", *TRAIN], POD | {"ZONE": "us-west4"}, "ZONE=us-west4: a zone that"),
        ("tpu_pod.sh", ["--", *TRAIN], POD | {"TPU_NAME": "a b"}, "TPU_NAME=a b: the slice's"),
        (
            "tpu_pod.sh",
            ["--", TRAIN[0], "--workdir=/runs/a"],
            POD,
            "--workdir=/runs/a: each host has a disk of its own; allowed: gs://BUCKET/FOLDER",
        ),
        *(
            (
                script,
                [*first, "--", *TRAIN, flag],
                more,
                f"{flag} is not for a line that runs again",
            )
            for flag in ("--restart", "-restart=true")
            for script, first, more in (
                ("local.sh", ["-n", "1"], {}),
                ("slurm.sh", [], {}),
                ("tpu_pod.sh", [], POD),
                ("gke.sh", [], {"IMAGE": "i"}),
            )
        ),
        ("local.sh", ["-n", "2", "--", *TRAIN], {"GRACE": "08"}, "GRACE=08: seconds"),
        ("slurm.sh", TRAIN, {"MAX_RESTARTS": "010"}, "MAX_RESTARTS=010: a number"),
        ("tpu_pod.sh", ["--", *TRAIN], POD | {"POLL_SECONDS": "1s"}, "POLL_SECONDS=1s: seconds"),
        ("gke.sh", ["--", *TRAIN], {"IMAGE": "i", "TOPOLOGY": "08x4"}, "TOPOLOGY=08x4: of a slice"),
        ("gke.sh", ["--", *TRAIN], {"IMAGE": "i", "NAME": "a" * 48}, "64 letters; at most 47 fit"),
        ("gke.sh", ["--", *TRAIN], {}, "IMAGE is not set: the image of the pods"),
        ("gke.sh", ["--", *TRAIN], {"IMAGE": "i", "TOPOLOGY": "4"}, "TOPOLOGY=4: of a slice"),
        ("gke.sh", ["--", *TRAIN], {"IMAGE": "i", "TOPOLOGY": "1x1"}, "not a multiple of CHIPS"),
        ("gke.sh", ["--", *TRAIN], {"IMAGE": "i", "NAME": "a:\n b"}, "small letters, digits"),
        ("gke.sh", ["--", TRAIN[0], "--workdir", "runs/a"], {"IMAGE": "i"}, "--workdir=runs/a: a"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(script, arguments, environment, problem):
    done = launch(script, *arguments, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert problem in done.stderr and done.stderr.startswith(f"{script}: ")
