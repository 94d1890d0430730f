"""What holds for every test: no network, and real data only where POLYGENE_DATA names them."""

import ipaddress
import logging
import os
import socket
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "OMP_NUM_THREADS" in os.environ:  # when numba starts it sets the threads of torch, too: to the number of cores
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `data` unless POLYGENE_DATA is set."""
    if os.environ.get("POLYGENE_DATA"):
        return
    skip = pytest.mark.skip(reason="POLYGENE_DATA names no folder of real data")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(str(address[0])):
            msg = f"a test tried to reach {address}"
            raise RuntimeError(msg)
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(autouse=True)
def _plain_logging() -> None:
    """Take from the logger what the command line gave it in an earlier test or fixture: a handler and a level."""
    logger = logging.getLogger("polygene")
    logger.handlers = []
    logger.setLevel(logging.NOTSET)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
