"""Runs of `bolid train` that end badly: each in a process of its own, which may be killed wherever one likes.

The imports take seconds, so one process does them once (this file, run as a script) and forks for every run. It reads a
JSON object per line from stdin, and answers with one.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

SECONDS = 300
"""A run that takes longer is ended by SIGALRM."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: its exit code, or minus the number of the signal that killed it."""

    code: int
    stdout: str
    stderr: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class TrainingProcesses:
    """Processes that run the command `bolid`. A context manager."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A fork would wait for OpenMP's threads for ever.
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )

    def __enter__(self) -> TrainingProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._server.pid, signal.SIGKILL)  # with a run that is still under way
        self._server.communicate()

    def run(self, *arguments: object, fault: str = "") -> Ended:
        """Run `bolid` with these arguments, and with a fault: a name of `FAULTS` and what it is told, with a space."""
        (ended,) = self._ask(arguments, fault, processes=1)
        return ended

    def run_together(self, *arguments: object, processes: int) -> list[Ended]:
        """The same command in several processes that train together, on the CPU."""
        return self._ask(arguments, "", processes=processes)

    def _ask(self, arguments: Sequence[object], fault: str, *, processes: int) -> list[Ended]:
        request = {"arguments": list(map(str, arguments)), "fault": fault, "processes": processes}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return [Ended(**ended) for ended in json.loads(self._server.stdout.readline())]


# In the process that forks


def _serve() -> None:
    import open_clip  # noqa: F401
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401

    import bolid.training.train
    import bolid.world.networks.train  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        children, pipes = [], {}
        for environment in _environments(request["processes"]):
            ends = [os.pipe() for _ in ("stdout", "stderr")]
            pid = os.fork()
            if pid == 0:
                _run(request["arguments"], request["fault"], [writes for _, writes in ends], environment)
            for _, writes in ends:
                os.close(writes)
            children.append(pid)
            pipes[pid] = [reads for reads, _ in ends]
        said = _read(pipe for pair in pipes.values() for pipe in pair)
        ended = []
        for pid in children:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            stdout, stderr = (said[pipe].decode() for pipe in pipes[pid])
            ended.append({"code": code, "stdout": stdout, "stderr": stderr})
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()


def _read(pipes: Iterable[int]) -> dict[int, bytes]:
    """All that comes out of pipes, which are then closed."""
    said: dict[int, bytes] = {}
    with selectors.DefaultSelector() as open_pipes:
        for pipe in pipes:
            open_pipes.register(pipe, selectors.EVENT_READ)
            said[pipe] = b""
        while open_pipes.get_map():
            for key, _ in open_pipes.select():
                data = os.read(key.fd, 1 << 16)
                said[key.fd] += data
                if not data:
                    open_pipes.unregister(key.fd)
                    os.close(key.fd)
    return said


def _environments(processes: int) -> list[dict[str, str]]:
    """What `accelerate launch` tells each of several processes; nothing to a single one."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        for number in range(processes)
    ]


def _run(arguments: list[str], fault: str, outputs: Sequence[int], environment: dict[str, str]) -> NoReturn:
    import traceback

    from bolid.__main__ import app

    code: Any = 1
    try:
        signal.alarm(SECONDS)
        for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), *outputs)):
            os.dup2(file, number)
            os.close(file)
        os.environ.update(environment)
        if fault:
            name, _, told = fault.partition(" ")
            FAULTS[name](told)
        app(arguments, prog_name="bolid")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _at_step(told: str, action: Callable[[Any], None]) -> None:
    """Do something when the optimiser is about to take its n-th step in this process, with the optimiser."""
    import torch

    count, step = 0, torch.optim.AdamW.step

    def counted(optimizer: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == int(told):
            action(optimizer)
        return step(optimizer, *arguments, **options)

    torch.optim.AdamW.step = counted


def _at_replace(name: str, *, before: bool) -> None:
    replace = os.replace

    def replaced(source: Any, target: Any) -> None:
        if before and Path(target).name == name:
            _die()
        replace(source, target)
        if Path(target).name == name:
            _die()

    os.replace = replaced


def _half_a_checkpoint(name: str) -> None:
    import io

    import torch

    save = torch.save

    def saved(state: Any, file: Any) -> None:
        if name not in file.name:
            return save(state, file)
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        _die()

    torch.save = saved


def _half_an_adapter(name: str) -> None:
    import safetensors.torch

    save = safetensors.torch.save_file

    def saved(tensors: Any, path: Any, metadata: Any = None) -> None:
        save(tensors, path, metadata=metadata)
        if name in Path(path).name:
            os.truncate(path, Path(path).stat().st_size // 2)
            _die()

    safetensors.torch.save_file = saved


def _full_disk(told: str) -> None:
    """From a step on no file gets longer than so many bytes."""
    import resource

    step, length = told.split()

    def fill(optimizer: Any) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(length), int(length)))

    _at_step(step, fill)


def _bad_weight(told: str) -> None:
    import torch

    def spoil(optimizer: Any) -> None:
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].fill_(float("nan"))

    _at_step(told, spoil)


def _bad_gradient(told: str) -> None:
    """Of the step after this one."""

    def spoil(optimizer: Any) -> None:
        optimizer.param_groups[0]["params"][0].register_hook(lambda gradient: gradient * float("inf"))

    _at_step(told, spoil)


FAULTS: dict[str, Callable[[str], None]] = {
    "kill_at_step": lambda told: _at_step(told, lambda optimizer: _die()),
    "kill_before_replace": lambda name: _at_replace(name, before=True),
    "kill_after_replace": lambda name: _at_replace(name, before=False),
    "kill_in_checkpoint": _half_a_checkpoint,
    "kill_in_adapter": _half_an_adapter,
    "interrupt_at_step": lambda told: _at_step(told, lambda optimizer: os.kill(os.getpid(), signal.SIGINT)),
    "terminate_at_step": lambda told: _at_step(told, lambda optimizer: os.kill(os.getpid(), signal.SIGTERM)),
    "full_disk": _full_disk,
    "bad_weight": _bad_weight,
    "bad_gradient": _bad_gradient,
}


if __name__ == "__main__":
    _serve()
