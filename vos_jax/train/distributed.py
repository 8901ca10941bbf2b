"""How a process joins the others of its run: by the environment's word, or by three given values.

jax.distributed does the joining. Left to itself it gives each task of a scheduler the one GPU of
the task's number, so that a task for a whole host uses one of eight, and a task that sees nothing
but its own GPU looks for another; and it takes the script of a batch job for no cluster at all.
"""

import glob
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from vos_jax.checkpoint_folder import first_line
from vos_jax.train.last_words import last_words

GIVEN = {  # flag of main -> variable
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
SWITCH = "VOS_JAX_DISTRIBUTED"  # 1: join as JAX sees fit; 0: this process is alone
WAIT = 300  # seconds until JAX gives a process up that waits for the others
BY_HAND = (
    "--coordinator_address=HOST:PORT --num_processes=N --process_id=I in every process (HOST is"
    " that of process 0; or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID)"
)
ALONE = f"{SWITCH}=0 runs this process alone"
Environment = Mapping[str, str]


class Joining(NamedTuple):
    """found: what says that there are others. arguments: of jax.distributed.initialize."""

    found: str
    arguments: dict[str, Any]


def initialize_distributed(**flags: str | None) -> bool:
    """Joins the other processes of the job if there are any; returns whether it did.

    flags: coordinator_address "HOST:PORT", num_processes and process_id, as texts; each may stand
    in the environment instead (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID). With
    all three, a process uses every device that it sees. Otherwise, in this order:

    - mpirun of Open MPI with several ranks, or a SLURM step with several tasks: the GPUs of a host
      are shared evenly by its tasks, unless each sees only its own;
    - several TPU hosts or slices named in TPU_PROCESS_ADDRESSES, TPU_WORKER_HOSTNAMES or
      MEGASCALE_NUM_SLICES, as on GKE; or a TPU without these variables, as on a TPU VM, whose
      metadata server knows the hosts;
    - VOS_JAX_DISTRIBUTED=1: any cluster that jax.distributed.initialize() recognises.

    VOS_JAX_DISTRIBUTED=0 joins nothing. Must come before any other use of JAX. Raises ValueError
    that names what was found and what to do.
    """
    if jax.distributed.is_initialized():
        return True
    joining = find_others(os.environ, flags)
    if joining is None:
        return False
    # JAX ends a process that has waited in vain past Python, so that no exception can be raised.
    with last_words(
        f"the other processes of this run could not be joined ({joining.found}). Start the same"
        f" command in every process within {WAIT} seconds, and see that each can reach process 0;"
        f" {ALONE}"
    ):
        try:
            jax.distributed.initialize(**joining.arguments, initialization_timeout=WAIT)
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            raise ValueError(
                f"the other processes of this run could not be joined: {first_line(error)} (found:"
                f" {joining.found}). Give {BY_HAND}; {ALONE}"
            ) from error
    return True


def find_others(environment: Environment, flags: Mapping[str, str | None]) -> Joining | None:
    """What `initialize_distributed` does in an environment; None: nothing, the process is alone."""
    switch = environment.get(SWITCH, "")
    if switch not in ("", "0", "1"):
        raise ValueError(f"{SWITCH}: expected 1 (join) or 0 (alone), found {switch!r}")
    if switch == "0":
        return None
    given = {name: flags.get(name) or environment.get(GIVEN[name]) for name in GIVEN}
    given = {name: value for name, value in given.items() if value}
    if len(given) == len(GIVEN):
        return _by_hand(**given)
    if given.keys() - {"coordinator_address"}:
        raise ValueError(_incomplete(given))
    for cluster in (_open_mpi, _slurm, _tpu):
        joining = cluster(environment, given)
        if joining is not None:
            return joining
    if switch == "1":
        return Joining(f"{SWITCH}=1", given)
    if given:
        raise ValueError(_incomplete(given))
    return None


def _incomplete(given: Mapping[str, str]) -> str:
    there = ", ".join(f"{name}={value}" for name, value in given.items())
    missing = " and ".join(name for name in GIVEN if name not in given)
    return (
        f"{len(given)} of the three values that join processes by hand: {there} is given,"
        f" {missing} is missing; give {BY_HAND}, or none of them"
    )


def _by_hand(coordinator_address: str, num_processes: str, process_id: str) -> Joining:
    found = ", ".join(
        f"{name}={value}"
        for name, value in zip(GIVEN, (coordinator_address, num_processes, process_id), strict=True)
    )
    numbers = num_processes.isdecimal() and process_id.isdecimal()
    if not numbers or int(process_id) >= int(num_processes):
        raise ValueError(
            f"expected num_processes N of 1 or more and process_id from 0 to N-1, found {found}"
        )
    if not re.fullmatch(r".+:\d+", coordinator_address):
        raise ValueError(
            f"coordinator_address: expected HOST:PORT of process 0 such as 10.0.0.1:8476, found"
            f" {coordinator_address!r}"
        )
    arguments = {
        "coordinator_address": coordinator_address,
        "num_processes": int(num_processes),
        "process_id": int(process_id),
        "cluster_detection_method": "deactivate",  # a scheduler's word on devices is not asked
    }
    return Joining(found, arguments)


def _open_mpi(environment: Environment, given: Mapping[str, str]) -> Joining | None:
    size = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if size == 1:
        return None
    rank = int(environment["OMPI_COMM_WORLD_RANK"])
    found = f"mpirun: rank {rank} of {size}"
    here = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", size))
    arguments = {"num_processes": size, "process_id": rank, **given}
    arguments |= _devices(environment, here, int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]))
    if "OMPI_MCA_orte_hnp_uri" in environment:  # what JAX takes the address from
        return Joining(found, arguments)
    if not given:
        raise ValueError(
            f"{found}, but this Open MPI does not say where rank 0 is (no OMPI_MCA_orte_hnp_uri);"
            " give --coordinator_address=HOST:PORT with the host of rank 0"
        )
    return Joining(found, {**arguments, "cluster_detection_method": "deactivate"})


def _slurm(environment: Environment, given: Mapping[str, str]) -> Joining | None:
    if "SLURM_PROCID" not in environment:  # a shell inside an allocation, or no SLURM
        return None
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)
    if "SLURM_STEP_NODELIST" not in environment:
        nodes = int(environment.get("SLURM_JOB_NUM_NODES", 1))
        if max(tasks, nodes) > 1:
            raise ValueError(
                f"this is the script of a SLURM job for {tasks} task(s) on {nodes} node(s), and not"
                " one of its tasks; start it with `srun python -m vos_jax.main ...`, as"
                f" launch/slurm.sbatch does; {ALONE}"
            )
        return None
    if tasks == 1:
        return None
    found = f"SLURM: task {environment['SLURM_PROCID']} of {tasks}"
    devices = _devices(
        environment,
        _tasks_of_node(environment, tasks),
        int(environment["SLURM_LOCALID"]),
        int(environment.get("SLURM_GPUS_ON_NODE", 0)),
    )
    return Joining(found, {"num_processes": tasks, **given, **devices})


def _tasks_of_node(environment: Environment, tasks: int) -> int:
    """How many tasks of a SLURM step run on this node: 4(x2),3 are 4, 4 and 3."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    counts = [int(count) for count, nodes in counts for _ in range(int(nodes or 1))]
    node = int(environment.get("SLURM_NODEID", 0))
    return counts[node] if node < len(counts) else tasks


def _tpu(environment: Environment, given: Mapping[str, str]) -> Joining | None:
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if "," in environment.get(name, ""):
            return Joining(f"{name}={environment[name]}", dict(given))
    slices = environment.get("MEGASCALE_NUM_SLICES") or "1"
    if slices != "1":
        return Joining(f"MEGASCALE_NUM_SLICES={slices}", dict(given))
    named = {"TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY"}
    # JAX puts "tpu" first where it has found chips and their library
    on_tpu = (jax.config.jax_platforms or "").split(",")[0] == "tpu"
    if on_tpu and not named & environment.keys():
        return Joining("a TPU, whose metadata server knows the hosts", dict(given))
    return None


def _devices(
    environment: Environment, tasks: int, number: int, of_node: int = 0
) -> dict[str, list[int]]:
    """local_device_ids of task `number` of the `tasks` on this host.

    of_node: GPUs that the scheduler gave to all of them, 0: unknown. An empty list restricts
    nothing. Without GPUs, and where the user chose, JAX has its way.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return {}
    if tasks == 1:
        return {"local_device_ids": []}
    seen = _visible_gpus(environment)
    if not seen:
        return {}
    if seen < max(tasks, of_node):  # each task sees only its own
        return {"local_device_ids": []}
    if seen % tasks:
        raise ValueError(
            f"{seen} GPUs of a host cannot be shared evenly by its {tasks} tasks; start 1 task per"
            " host, or as many as it has GPUs, or set JAX_LOCAL_DEVICE_IDS in every task"
        )
    share = seen // tasks
    return {"local_device_ids": list(range(number * share, (number + 1) * share))}


def _visible_gpus(environment: Environment) -> int:
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if name in environment:
            return len([device for device in environment[name].split(",") if device.strip()])
    return len(glob.glob("/dev/nvidia[0-9]*"))
