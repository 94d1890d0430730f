"""What the page asks the server; every computation goes to the worker of its session."""

import asyncio
import hmac
import json
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from polygene.app import incoming
from polygene.app.guard import LOOPBACK, Guard
from polygene.app.python import lines_of, python_of
from polygene.app.requests import Named, Opened, Run, WhatIf
from polygene.app.sessions import Session, Sessions
from polygene.errors import DataError, PolyGeneError
from polygene.model.shipped import NAMES

STATIC = Path(__file__).parent / "static"
EXAMPLE = "700 blood cells (PBMC 3k)"
MOST_SELECTED = 80_000_000  # bytes of row numbers: 20 million cells
TICK = 0.15  # seconds between two looks for news
QUIET = 15.0  # seconds after which a sign of life is sent
TIDY = 30.0  # seconds between two looks for idle workers

api = APIRouter(prefix="/api")
Job = dict[str, int]


def make_app(
    *,
    host: str = "127.0.0.1",
    port: int = 8787,
    token: str | None = None,
    start: str | None = None,
    model: str | None = None,
) -> FastAPI:
    """Make the server.

    With a `token` it asks each page for it; `start` is a file that each new page shows first, `model` a folder that
    pages may choose beside the models that ship.
    """
    sessions = Sessions()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def tidy() -> None:
            while True:
                await asyncio.sleep(TIDY)
                await asyncio.to_thread(sessions.tidy)

        task = asyncio.create_task(tidy())
        try:
            yield
        finally:
            task.cancel()
            sessions.close()

    app = FastAPI(title="PolyGene", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.sessions, app.state.cookie, app.state.token = sessions, f"polygene-{port}", token
    app.state.start, app.state.opens_paths = start, host in LOOPBACK
    app.state.models = [*([model] if model else []), *NAMES]
    app.add_middleware(Guard, host=host)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_api_route("/", page, methods=["GET"])
    app.add_exception_handler(PolyGeneError, _explain)
    app.include_router(api)
    return app


def page(request: Request) -> Response:
    """Send the page, with a session if it has none and needs no token."""
    response, state = FileResponse(STATIC / "index.html"), request.app.state
    if state.token is None and state.sessions.get(request.cookies.get(state.cookie)) is None:
        _begin(request, response)
    return response


@api.post("/token")
def enter(request: Request, given: Named) -> Response:
    """Begin a session with the token that was printed."""
    token = request.app.state.token
    if token is None or not hmac.compare_digest(given.name.encode(), token.encode()):
        raise HTTPException(403, "This is not the token that polygene app printed.")
    response = JSONResponse({})
    _begin(request, response)
    return response


def _begin(request: Request, response: Response) -> None:
    state = request.app.state
    session: Session = state.sessions.new()  # its worker starts when the page's own script asks for its state
    session.models = state.models
    if state.start:
        _read(session, state.start)
    response.set_cookie(state.cookie, session.id, httponly=True, samesite="strict")


def _explain(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


def own(request: Request) -> Session:
    """Find the session of the page that asks."""
    state = request.app.state
    session: Session | None = state.sessions.get(request.cookies.get(state.cookie))
    if session is None:
        raise HTTPException(401, "This page has no session: open the address that polygene app printed.")
    return session


Own = Annotated[Session, Depends(own)]


@api.post("/upload")
async def upload(request: Request, session: Own, name: str) -> Job:
    """Take a file in, block by block, and open it; the one before stays until it has been read."""
    await asyncio.to_thread(session.cancel)
    folder = Path(tempfile.mkdtemp(prefix=incoming.FOLDER, dir=session.folder))
    path, most = folder / incoming.safe_name(name), incoming.room(folder)
    if int(request.headers.get("content-length", 0)) > most:
        raise incoming.too_large(path.name, most)
    await incoming.receive_file(request.stream(), path, most)
    return _read(session, str(path), name=re.split(r"[/\\]", name)[-1][:255])


@api.post("/open")
def open_path(request: Request, opened: Opened, session: Own) -> Job:
    """Open a file of this computer, the example, or the open file with another layer."""
    if opened.again:
        file = _need(session, "file")
        return _read(session, None if file["example"] else file["path"], opened.layer, name=file["name"])
    if opened.path is not None and not request.app.state.opens_paths:
        msg = "This server is open to other computers, so it opens no paths: drop the file."
        raise DataError(msg)
    path = None if opened.path is None else incoming.local_path(opened.path)
    session.cancel()
    return _read(session, path)


@api.post("/close")
def close(session: Own) -> None:
    """Forget the file and all that came of it."""
    session.forget()


def _read(session: Session, path: str | None, layer: str | None = None, *, name: str = "") -> Job:
    named = {"name": name or (EXAMPLE if path is None else Path(path).name), "example": path is None}
    return {"id": session.submit("read", path=path, layer=layer, models=session.models, **named)}


def _need(session: Session, key: Literal["file", "run"]) -> dict[str, Any]:
    found: dict[str, Any] | None = session.state.get(key)
    if found is None:
        msg = "Open a file first." if key == "file" else "Predict first."
        raise DataError(msg)
    return found


@api.get("/state")
def state(session: Own) -> dict[str, Any]:
    """Tell all that a page needs to go on where it was."""
    session.warm()
    last = session.messages[-1][0] if session.messages else 0
    return {"state": session.state, "progress": session.progress, "last": last}


@api.get("/events")
async def events(
    session: Own, last: int = 0, last_event_id: Annotated[int | None, Header()] = None
) -> StreamingResponse:
    """Send what happens from the message `last` on, or from the last one that a page that connects again has."""
    return StreamingResponse(_news(session, last_event_id or last), media_type="text/event-stream")


@api.post("/run")
def run(options: Run, session: Own) -> Job:
    """Predict the phenotypes of all cells."""
    file = _need(session, "file")
    if options.plane and options.plane not in file["maps"]:
        msg = f"The file has no map {options.plane!r}."
        raise DataError(msg)
    if options.model not in session.models:  # a repository of the Hub would be fetched
        msg = f"There is no model {options.model!r} here; there are {', '.join(session.models)}."
        raise DataError(msg)
    session.cancel()  # a map of the predictions of before would pass for one of these
    session.change(run=None, map=None, plane=options.plane, asked=[])
    words = options.model_dump(exclude={"plane"})
    return {"id": session.submit("annotate", file=file, options=words)}


@api.post("/draw")
def draw(session: Own) -> Job:
    """Draw the map of the annotated cells: a job of its own, since it can be cancelled and needs memory of its own."""
    model = _need(session, "run")["options"]["model"]
    file, plane = session.state["file"], session.state["plane"]
    return {"id": session.submit("draw", file=file, model=model, plane=plane)}


@api.post("/cancel")
def cancel(session: Own) -> None:
    """End what is being computed."""
    session.cancel()


@api.post("/gene")
def gene(one: Named, session: Own) -> Job:
    """Read the expression of a gene."""
    return {"id": session.submit("gene", file=_need(session, "file"), name=one.name)}


@api.post("/selection")
async def select(request: Request, session: Own) -> Job:
    """Take the numbers of the selected cells (uint32), and describe these cells."""
    _need(session, "run")
    await incoming.receive_file(request.stream(), session.folder / "selection.bin", MOST_SELECTED)
    first = session.submit("selected")
    return {"id": first, "markers": session.submit("markers", file=session.state["file"])}


@api.post("/what-if")
def what_if(change: WhatIf, session: Own) -> Job:
    """Change labels or genes of the selected cells."""
    file, model = _need(session, "file"), _need(session, "run")["options"]["model"]
    common = {"file": file, "model": model, "donor": change.donor}
    genes = {"knock_out": change.knock_out, "over_express": change.over_express}
    if change.changes:
        number = session.submit("change_labels", changes=change.changes, **common)
    else:
        number = session.submit("change_genes", **genes, **common)
    lines = lines_of(file, model, change.changes, genes, change.donor)
    session.change(asked=[*session.state.get("asked", []), *lines])
    return {"id": number}


@api.get("/read/{what}")
def send(session: Own, what: Literal["map", "names", "genes"]) -> FileResponse:
    """Send places of cells (float32 x, y), their names, or the genes of the file."""
    return _sent(session.folder / {"map": "map.bin", "names": "names.json", "genes": "genes.json"}[what])


@api.get("/column")
def column(session: Own, name: str, kind: Literal["obs", "gene"] = "obs") -> FileResponse:
    """Send a column of `obs`, or the expression of a gene that was read."""
    where = (session.folder / "columns", name) if kind == "obs" else (session.folder, f"gene {name}")
    return _sent(incoming.column_file(*where))


@api.post("/take/{what}")
def take(session: Own, what: Literal["csv", "parquet", "html"]) -> Job:
    """Write a table or the report."""
    _need(session, "run")
    return {"id": session.submit("take", what=what, state=session.state)}


@api.get("/take/{what}")
def taken(session: Own, what: Literal["h5ad", "csv", "parquet", "html", "what-if", "py"]) -> Response:
    """Send a file to keep."""
    file, written = _need(session, "file"), {"h5ad": "annotated.h5ad", "what-if": "what-if.csv"}
    if what == "py":
        _need(session, "run")
        return Response(python_of(session.state), media_type="text/plain; charset=utf-8")
    ending = "what-if.csv" if what == "what-if" else f"polygene.{what}"
    stem = "pbmc" if file["example"] else Path(file["name"]).stem
    return _sent(session.folder / written.get(what, f"take.{what}"), f"{stem}.{ending}")


def _sent(path: Path, name: str | None = None) -> FileResponse:
    if not path.is_file():
        raise HTTPException(404, "This is not there yet.")
    return FileResponse(path, media_type="application/octet-stream", filename=name)


async def _news(session: Session, last: int) -> AsyncIterator[str]:
    """Send messages and progress of a session as server-sent events, until the page is shut."""
    session.listeners += 1
    before, silent = "", 0.0
    try:
        while True:
            for number, message in [one for one in list(session.messages) if one[0] > last]:
                last, silent = number, 0.0
                yield f"id: {number}\ndata: {json.dumps(message)}\n\n"
            progress = json.dumps({"kind": "progress", "progress": session.progress})
            if progress != before or silent > QUIET:
                before, silent = progress, 0.0
                yield f"data: {progress}\n\n"
            await asyncio.sleep(TICK)
            silent += TICK
    finally:
        session.listeners -= 1
        session.seen = time.monotonic()
