"""Cells on a Ray cluster: one actor for each job, ended and started anew when a cell kills it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from attn_deploy.errors import MissingDependencyError, WorkerCrashError, WorkerTimeoutError
from attn_deploy.matrix.task import Task, Worker


class RayWorker:
    """Makes cells in a Ray actor with one CPU, wherever the cluster puts it.

    Args:
        ray: the module, connected to a cluster.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._actor: Any = None

    def run(self, task: Task, *, careful: bool) -> dict[str, Any]:
        """The cell as data.

        Raises:
            WorkerTimeoutError, WorkerCrashError: as they say.
        """
        if self._actor is None:
            self._actor = self._ray.remote(num_cpus=1, max_restarts=0)(_Actor).remote()
            self._ray.get(self._actor.ready.remote())  # the time that a node takes to start it is not the cell's
        arguments = (task.cell, task.options, task.key)
        pending = self._actor.make.remote(*arguments, timeout=task.timeout, careful=careful)
        try:
            data: dict[str, Any] = self._ray.get(pending, timeout=task.timeout)
        except self._ray.exceptions.GetTimeoutError:
            self.close()
            raise WorkerTimeoutError(
                f"{task.cell.model}: took longer than {task.timeout:g} s and was stopped."
            ) from None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.WorkerCrashedError) as error:
            self.close()
            raise WorkerCrashError(
                f"{task.cell.model}: the Ray actor died: {' '.join(str(error).split())[:300]}"
            ) from None
        return data

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None


class _Actor:
    """What runs on the cluster's machines; each needs the same version of this package."""

    def ready(self) -> bool:
        """Import what cells need, with one thread, since the actor has one CPU."""
        import torch

        import attn_deploy.matrix.making  # noqa: F401  # so that the time of the first cell is its own

        torch.set_num_threads(1)
        return True

    def make(self, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """One cell."""
        from attn_deploy.matrix.making import make_cell_data

        return make_cell_data(*arguments, **settings)


def ray_worker_factory(jobs: int) -> Callable[[], Worker]:
    """What makes workers on the cluster that ``RAY_ADDRESS`` names, or on one started here with ``jobs`` CPUs.

    Raises:
        MissingDependencyError: if Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "ray is not installed; it spreads the cells of a matrix over a cluster: pip install 'attn-deploy[ray]', "
            "or use --executor processes."
        ) from error
    if not ray.is_initialized():
        local: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False}
        ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else local))
    return lambda: RayWorker(ray)
