"""Environments of schedulers and pods, simulated; tests/train/test_processes.py joins for real."""

import os

import jax
import pytest

from vos_jax.train import distributed
from vos_jax.train.distributed import initialize_distributed

NAMES = ("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_C", "JAX_N", "JAX_PR", "JAX_L", "VOS_JAX_D")
ALL = {"local_device_ids": []}  # restricts nothing
GPUS = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}


def slurm(tasks, task, per_node, node=0, **others):
    """What srun tells a task of a job on nodes with as many tasks as per_node says."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task % 8),
        "SLURM_NODEID": str(node),
        **others,
    }


def mpi(size, rank, here, local, **others):
    return {
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(here),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(local),
        **others,
    }


@pytest.fixture
def join(monkeypatch):
    """join(environment, **flags): the arguments that jax.distributed.initialize got, or None."""

    def joined(environment, platforms=None, error=None, **flags):
        for name in os.environ:
            if name.startswith(NAMES) or name.endswith("VISIBLE_DEVICES"):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        calls = []

        def initialize(**arguments):
            calls.append(arguments)
            if error is not None:
                raise error

        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        jax.config.update("jax_platforms", platforms)  # of no effect on this process's devices
        monkeypatch.setattr(distributed.glob, "glob", lambda pattern: [])
        assert initialize_distributed(**flags) is bool(calls)
        if not calls:
            return None
        assert calls[0].pop("initialization_timeout") == distributed.WAIT
        return calls[0]

    before = jax.config.jax_platforms
    yield joined
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},  # a shell inside an allocation
        {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"},  # a script for one task
        slurm(1, 0, "1"),
        mpi(1, 0, 1, 0),
        {"TPU_WORKER_HOSTNAMES": "host-0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "1"},
        {"VOS_JAX_DISTRIBUTED": "0", **slurm(8, 3, "8")},
        {"VOS_JAX_DISTRIBUTED": "0", "JAX_PROCESS_ID": "3"},
    ],
)
def test_a_process_without_others_or_told_so_is_alone(join, environment):
    assert join(environment) is None


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        # a task for each node takes all of its GPUs, JAX alone would take one
        (slurm(2, 1, "1(x2)", node=1, **GPUS), ALL),
        (slurm(2, 1, "1(x2)", node=1), ALL),
        # a task for each GPU: all are visible to each task, or only its own
        (slurm(16, 11, "8(x2)", node=1, **GPUS), {"local_device_ids": [3]}),
        (slurm(16, 11, "8(x2)", node=1, CUDA_VISIBLE_DEVICES="0"), ALL),
        (slurm(16, 11, "8(x2)", node=1, CUDA_VISIBLE_DEVICES="3", SLURM_GPUS_ON_NODE="8"), ALL),
        # several GPUs for each task, shared evenly or bound to it
        (slurm(4, 1, "2(x2)", **GPUS), {"local_device_ids": [4, 5, 6, 7]}),
        (slurm(2, 1, "2", CUDA_VISIBLE_DEVICES="2,3", SLURM_GPUS_ON_NODE="4"), ALL),
        # nodes with unlike numbers of tasks
        (slurm(3, 2, "2,1", node=1, **GPUS), ALL),
        # no GPU, or the user's word: JAX knows
        (slurm(2, 1, "2"), {}),
        (slurm(2, 1, "2", JAX_LOCAL_DEVICE_IDS="1", **GPUS), {}),
    ],
)
def test_a_task_of_slurm_takes_its_share_of_the_gpus_of_its_node(join, environment, devices):
    tasks = int(environment["SLURM_NTASKS"])
    assert join(environment) == {"num_processes": tasks, **devices}


def test_gpus_without_a_variable_are_counted_as_files(join, monkeypatch):
    environment = slurm(2, 1, "2")
    join(environment)
    monkeypatch.setattr(distributed.glob, "glob", lambda pattern: ["/dev/nvidia0", "/dev/nvidia1"])
    assert distributed.find_others(environment, {}).arguments["local_device_ids"] == [1]


def test_gpus_that_cannot_be_shared_evenly_are_refused(join):
    with pytest.raises(
        ValueError, match="8 GPUs of a host cannot .* its 3 tasks; start 1 task per"
    ):
        join(slurm(3, 1, "3", **GPUS))


@pytest.mark.parametrize("size", [{"SLURM_NTASKS": "8"}, {"SLURM_JOB_NUM_NODES": "2"}])
def test_a_batch_script_without_srun_is_refused_with_the_fix(join, size):
    with pytest.raises(ValueError, match=r"script of a SLURM job .*srun python -m vos_jax\.main"):
        join({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", **size})


def test_ranks_of_open_mpi_join_by_the_address_that_it_tells_or_that_is_given(join):
    uri = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
    expected = {"num_processes": 4, "process_id": 3}
    assert join(mpi(4, 3, 1, 0, **uri, **GPUS)) == expected | ALL
    assert join(mpi(4, 3, 4, 3, **uri, **GPUS)) == expected | {"local_device_ids": [6, 7]}
    with pytest.raises(ValueError, match="rank 3 of 4.*no OMPI_MCA.*--coordinator_address=HOST"):
        join(mpi(4, 3, 1, 0))
    given = {"coordinator_address": "host:1", "cluster_detection_method": "deactivate"}
    address = {"coordinator_address": "host:1"}
    assert join(mpi(4, 3, 1, 0, **GPUS), **address) == expected | given | ALL


@pytest.mark.parametrize(
    "environment",
    [
        {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
        {"TPU_PROCESS_ADDRESSES": "host-0:8471,host-1:8471"},
        {"TPU_WORKER_HOSTNAMES": "host-0", "MEGASCALE_NUM_SLICES": "2"},
        {"VOS_JAX_DISTRIBUTED": "1"},
    ],
)
def test_hosts_and_slices_that_are_named_join_as_jax_finds_them(join, environment):
    assert join(environment) == {}


@pytest.mark.parametrize(
    ("platforms", "environment", "joins"),
    [
        ("tpu,cpu", {}, True),  # a TPU VM, alone or of a pod: the metadata server knows
        ("tpu", {}, True),
        ("cpu", {}, False),
        ("tpu,cpu", {"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ("tpu,cpu", {"TPU_SKIP_MDS_QUERY": "1"}, False),
        ("tpu,cpu", {"VOS_JAX_DISTRIBUTED": "0"}, False),
    ],
)
def test_on_a_tpu_without_variables_the_metadata_server_is_asked(
    join, platforms, environment, joins
):
    assert (join(environment, platforms) is not None) is joins


def test_three_values_join_by_hand_and_flags_go_before_variables(join):
    by_hand = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    expected = {
        "coordinator_address": "a:1",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }
    assert join(by_hand) == expected
    assert join(by_hand | slurm(8, 3, "8")) == expected
    assert join(by_hand, process_id="0") == expected | {"process_id": 0}
    flags = {"coordinator_address": "b:2", "num_processes": "4", "process_id": "0"}
    assert join({}, **flags)["coordinator_address"] == "b:2"


def test_an_address_alone_goes_to_the_cluster_that_knows_the_rest(join):
    address = {"JAX_COORDINATOR_ADDRESS": "a:1"}
    found = {"coordinator_address": "a:1", "num_processes": 8, "local_device_ids": [3]}
    assert join(address | slurm(8, 3, "8", **GPUS)) == found
    assert join(address | {"VOS_JAX_DISTRIBUTED": "1"}) == {"coordinator_address": "a:1"}


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1"},
            {},
            "1 of the three .*: coordinator_address=a:1 is given, num_processes and process_id is",
        ),
        ({"JAX_PROCESS_ID": "1"}, {"num_processes": "2"}, "2 of the three.*coordinator_address is"),
        (slurm(8, 3, "8"), {"process_id": "1"}, "1 of the three .*process_id=1 is given"),
        (
            {},
            {"coordinator_address": "a:1", "num_processes": "2", "process_id": "2"},
            "process_id from 0 to N-1, found .*num_processes=2, process_id=2",
        ),
        (
            {},
            {"coordinator_address": "a:1", "num_processes": "two", "process_id": "0"},
            "found .*num_processes=two",
        ),
        (
            {},
            {"coordinator_address": "a", "num_processes": "2", "process_id": "0"},
            "expected HOST:PORT of process 0 such as .* found 'a'",
        ),
        ({"VOS_JAX_DISTRIBUTED": "yes"}, {}, r"expected 1 \(join\) or 0 \(alone\), found 'yes'"),
    ],
)
def test_values_that_cannot_be_are_refused_with_what_was_found(join, environment, flags, message):
    with pytest.raises(ValueError, match=message):
        join(environment, **flags)


def test_a_cluster_that_jax_does_not_know_is_refused_with_the_fix(join):
    error = ValueError("coordinator_address should be defined.\nfor developers")
    message = r"joined: coordinator_address should be defined. \(found: VOS_JAX_DISTRIBUTED=1\)"
    with pytest.raises(ValueError, match=rf"{message}. Give --coordinator_address=HOST:PORT"):
        join({"VOS_JAX_DISTRIBUTED": "1"}, error=error)
