"""The processes of one run, as torchrun and accelerate launch start them: wait for all, and share their results."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any

from polygene.errors import RunEndedError
from polygene.runtime.ranks import world_size

PATIENCE = timedelta(hours=24)
"""How long a process waits for the slowest; one that ends is noticed at once."""

_GROUPS = count()


def own_device() -> str:
    """Name the GPU of this process, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@contextmanager
def process_group() -> Iterator[Callable[[Any], list[Any]]]:
    """Give a function that waits for all processes and returns what each of them passed; leaving waits for all too.

    Where one fails or ends, the others fail with its message, as RunEndedError; SIGTERM by the launcher is one too.
    """
    with _sigterm_as_error():
        if world_size() == 1:
            yield lambda value: [value]
            return
        group = _Group()
        try:
            yield group.gather
            group.gather(None)
        except RunEndedError:
            raise
        except BaseException as error:
            with suppress(RunEndedError):
                group.gather(None, failure=str(error) or type(error).__name__)
            raise
        finally:
            group.close()


class _Group:
    """The processes, connected by gloo, which needs no GPU."""

    def __init__(self) -> None:
        import torch

        distributed: Any = torch.distributed
        self._distributed, self._ours = distributed, not distributed.is_initialized()
        try:
            if self._ours:
                store, number, size = next(distributed.rendezvous("env://", timeout=PATIENCE))
                # Under keys of its own: a group that is made after this one would find the addresses of this one.
                store = distributed.PrefixStore(f"polygene-{next(_GROUPS)}", store)
                distributed.init_process_group("gloo", store=store, rank=number, world_size=size, timeout=PATIENCE)
            self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        except (ValueError, RuntimeError) as error:
            msg = f"WORLD_SIZE is {world_size()}, and the other processes cannot be met: {error}. Start with torchrun."
            raise RunEndedError(msg) from error

    def gather(self, value: Any, failure: str | None = None) -> list[Any]:
        """Return what every process passed, in order; fail if one of the others did."""
        gathered: list[Any] = [None] * world_size()
        try:
            self._distributed.all_gather_object(gathered, (failure, value), group=self._group)
        except RuntimeError as error:
            msg = "another process of this run ended before its work was done, so nothing was written"
            raise RunEndedError(msg) from error
        for number, (of_other, _) in enumerate(gathered):
            if of_other is not None:
                msg = f"process {number + 1} of {world_size()} failed: {of_other}"
                raise RunEndedError(msg)
        return [value for _, value in gathered]

    def close(self) -> None:
        if self._ours:
            self._distributed.destroy_process_group()


@contextmanager
def _sigterm_as_error() -> Iterator[None]:
    """Turn SIGTERM, by which launchers and clusters end a process, into an error, so that what was begun is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        msg = "ended from outside (SIGTERM): another process of this run failed, or its time was over"
        raise RunEndedError(msg)

    after: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        if world_size() > 1:  # the launcher ends this process too, which must live to say why
            after = signal.SIG_IGN
        raise
    finally:
        signal.signal(signal.SIGTERM, after)
