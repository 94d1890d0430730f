"""The local page: cells are opened, annotated, looked at and asked about in a browser, on the user's own machine.

The server (server, guard, sessions, routes) stays small; all computation is done by a process of each session (worker,
jobs), so that a cancel ends it and its memory goes back to the system.
"""

from typing import TYPE_CHECKING

from polygene.runtime import extras

if TYPE_CHECKING:
    from polygene.app.layout import lay_out
    from polygene.app.server import serve

__all__ = ["lay_out", "serve"]

__getattr__ = extras.lazy({"lay_out": "polygene.app.layout", "serve": "polygene.app.server"}, __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
