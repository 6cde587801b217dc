"""Steps of fixed shapes, recorded once as a CUDA graph and then replayed in one launch.

A training step of a small model is a thousand kernels of a few microseconds: launching them one by
one takes the host longer than running them takes the device.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UPS = 3  # runs before recording, in which libraries choose kernels and make their workspaces


class Recording(Protocol):
    """A ``torch.cuda.CUDAGraph``."""

    def replay(self) -> None: ...


class Graphs:
    """Recorded steps by key (their shapes), sharing one pool of memory.

    Args:
        state: gives all tensors that a step changes; they are put back after the warm-ups, which
            are real steps. Their addresses must stay what they are.

    Attributes:
        failure: why nothing is recorded any more, in one line; empty while recording works.
        seconds: that recording has taken.
    """

    def __init__(self, state: Callable[[], Sequence[Tensor]]) -> None:
        self.state = state
        self.failure = ""
        self.seconds = 0.0
        self._graphs: dict[Hashable, Recording] = {}
        self._pool: Any = None
        self._side: Any = None
        self._collected = False

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run the step of this key, as a recording if there can be one.

        ``step`` must read only tensors that stay where they are, and neither wait for the device
        nor depend on values on it. A device that cannot record it runs it as it is, and says so
        once.
        """
        self.record(key, step)
        if self.failure:
            step()
        else:
            self._graphs[key].replay()

    def record(self, key: Hashable, step: Callable[[], None]) -> None:
        """Have a recording of this step, as ``run`` does, without running it."""
        self.record_all({key: step})

    def record_all(
        self,
        steps: Mapping[Hashable, Callable[[], None]],
        ready: Callable[[Hashable], object] | None = None,
    ) -> None:
        """Have recordings of all of these, made in their order.

        All are warmed up before the first is recorded, behind which torch gives what is free back
        to the device: a warm-up takes as much memory as its recording, which keeps it for good.

        Args:
            ready: called with its key before a step is warmed up.
        """
        missing = {key: step for key, step in steps.items() if key not in self._graphs}
        if self.failure or not missing:
            return
        started = time.perf_counter()
        try:
            with self.collected():
                for key, step in missing.items():
                    if ready is not None:
                        ready(key)
                    self._warm(step)
                for key, step in missing.items():
                    self._graphs[key] = self._record(step)
        except torch.OutOfMemoryError:
            raise  # eager steps would need as much: whoever planned the memory has to know
        except (RuntimeError, AssertionError) as error:  # the latter where there is no CUDA
            if isinstance(error.__context__, KeyboardInterrupt):
                # What a recording says that was broken off hides by what.
                raise error.__context__ from None
            self.failure = str(error).splitlines()[0]
            self._graphs.clear()
            warnings.warn(
                f"training steps run one kernel at a time, which is slower: {self.failure}",
                stacklevel=2,
            )
        self.seconds += time.perf_counter() - started

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def __len__(self) -> int:
        return len(self._graphs)

    def _warm(self, step: Callable[[], None]) -> None:
        # Always the same: what a stream frees is kept for that stream alone.
        side = self._side = self._side or torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.warm_up(step)
        torch.cuda.current_stream().wait_stream(side)

    def _record(self, step: Callable[[], None]) -> Recording:
        stream = torch.cuda.current_stream()
        try:
            with self.collected():
                return self._recorded(step)
        finally:
            # A recording that failed does not leave its own stream.
            torch.cuda.set_stream(stream)

    def _recorded(self, step: Callable[[], None]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        with self.put_back(), torch.cuda.graph(graph, pool=self._pool):
            step()
        self._pool = self._pool or graph.pool()
        return graph

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Without garbage: a graph that is freed while another is recorded ends both.

        Around several recordings it saves a part of their time: what each collects is then only
        what was made within, and not the half a million objects of a process that has torch.
        """
        gc.collect()
        if self._collected:
            yield
            return
        self._collected = True
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
            self._collected = False

    def warm_up(self, step: Callable[[], None]) -> None:
        """Run the step a few times and undo what it did."""
        with self.put_back():
            for _ in range(WARM_UPS):
                step()

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Leave all state, and the random numbers to come, as they were."""
        before = [tensor.clone() for tensor in self.state()]
        on_gpu = any(tensor.is_cuda for tensor in before)
        random = torch.cuda.get_rng_state() if on_gpu else torch.get_rng_state()
        try:
            yield
        finally:
            for tensor, value in zip(self.state(), before, strict=True):
                tensor.copy_(value)
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.set_rng_state(random)
            else:
                torch.set_rng_state(random)


def start_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimiser's state as it is before the first step; it is made in the first one
    otherwise, when the addresses that a captured step reads are already written down."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:  # decay and update are both times this
        group["lr"] = torch.zeros_like(rate) if isinstance(rate := group["lr"], Tensor) else 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        state["step"].zero_()
    optimizer.zero_grad(set_to_none=True)
