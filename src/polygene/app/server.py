"""`polygene app`: start the server, and open the page."""

import secrets
import socket
import threading
import webbrowser
from pathlib import Path

import uvicorn

from polygene.app.guard import LOOPBACK
from polygene.app.routes import make_app
from polygene.errors import DataError
from polygene.vocab.tokenizer import CellTokenizer


def serve(
    cells: str | Path | None = None,
    *,
    model: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8787,
    browser: bool = True,
) -> None:
    """Open the local page, and serve it until it is interrupted. The data do not leave this computer.

    Parameters
    ----------
    cells
        A file that the page shows first; none: the page asks for one.
    model
        A checkpoint of your own, such as `finetune` writes, to choose beside those that ship.
    host
        The address to listen on. Any but this computer's own (127.0.0.1) needs a token, which is printed.
    port
        Where; if it is taken, any that is free.
    browser
        Whether to open a browser.
    """
    if cells is not None and not Path(cells).exists():
        msg = f"there is no file {str(cells)!r}"
        raise DataError(msg)
    if model is not None:
        CellTokenizer.load(Path(model))  # says what is wrong with the folder
    token = None if host in LOOPBACK else secrets.token_urlsafe(32)
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    start, named = (None if one is None else str(Path(one).resolve()) for one in (cells, model))
    app = make_app(host=host, port=port, token=token, start=start, model=named)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/" + (f"#{token}" if token else "")  # what follows # is not sent, so not logged
    print(f"PolyGene is at {address}\nStop it with Ctrl-C; what was uploaded is then removed.", flush=True)  # noqa: T201
    if browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Listen on the port, or on any that is free; who comes before the server has started waits."""
    if not 0 <= port <= 65_535:
        msg = f"port is a number from 0 to 65535, got {port}."
        raise DataError(msg)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for one in (port, 0):
        try:
            return socket.create_server((host, one), family=family)
        except OSError as error:
            last = error
    msg = f"{host}:{port} cannot be listened on: {last}. Choose another --host or --port."
    raise DataError(msg) from last
