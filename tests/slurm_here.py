"""A real Slurm of one machine, started by the tests marked slurm (tests/README.md)."""

import contextlib
import getpass
import socket
import subprocess
import time

import pytest

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=10
NodeName={host} CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm_here(folder):
    """Slurm's daemons, on ports of their own, their files in a folder; its commands find them."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(host=host, user=getpass.getuser(), folder=folder)
    (folder / "slurm.conf").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        daemons = [subprocess.Popen([name, "-D"]) for name in ("slurmctld", "slurmd")]
        try:
            deadline = time.monotonic() + 60
            while "idle" not in ask("sinfo", "--noheader", "--format=%T"):
                assert time.monotonic() < deadline, "Slurm does not start"
                time.sleep(0.1)
            yield
        finally:
            subprocess.run(["scancel", "--me", "--signal=KILL"], check=False)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def queue():
    """Returns the jobs in the queue: "12_0" -> its state."""
    lines = ask("squeue", "--me", "--array", "--noheader", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)
