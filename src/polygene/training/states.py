"""The states from which a stopped run goes on: marked as whole, with a hash of every file, and verified before use.

The newest two are kept, so that a damaged one has another before it, and the best of each.
"""

import logging
from pathlib import Path

from polygene.errors import CheckpointError
from polygene.runtime.atomic import delete, sync, write_text
from polygene.runtime.files import read_json, read_text, sha256

log = logging.getLogger("polygene")
COMPLETE = "complete"
"""The mark of a state that was saved to its end: the SHA-256 of its files."""


def mark_whole(state: Path) -> None:
    """Mark a state as whole once its files are on the disk, and remove the states that no run will go on from."""
    sync(state)
    files = sorted(path for path in state.rglob("*") if path.is_file() and path.name != COMPLETE)
    sums = (f"{sha256(path)}  {path.relative_to(state).as_posix()}\n" for path in files)
    write_text(state / COMPLETE, "".join(sums))
    newest = _states(state.parent)[:2]
    kept = {one.name for one in newest} | {_best(one) for one in newest}
    delete(*(old for old in _states(state.parent) if old.name not in kept))


def last_whole_state(states: Path) -> str | None:
    """Find the newest state that is as it was saved; states cut off while saving are removed.

    Raises
    ------
    CheckpointError
        There are states, and all of them are damaged.
    """
    wrong: list[str] = []
    for state in _states(states):
        if not (state / COMPLETE).exists():
            delete(state)
        elif damage := _damage(state):
            wrong.append(damage)
        else:
            for one in wrong:
                log.warning("%s: going on from the state before", one)
            log.info("resuming from %s", state)
            return str(state)
    if wrong:
        msg = f"No saved state is whole ({'; '.join(wrong)}). Begin anew: restart=True (--restart), or delete {states}."
        raise CheckpointError(msg)
    return None


def drop_states(states: Path) -> None:
    """Remove the states of a run whose checkpoint is written; they are pickled, and larger than it."""
    delete(*states.glob("checkpoint-*"))


def _states(states: Path) -> list[Path]:
    """List the states, the newest first."""
    numbered = [path for path in states.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: -int(path.name.rpartition("-")[2]))


def _best(state: Path) -> str:
    """Name the best state up to this one, itself where none was scored."""
    try:
        best = read_json(state / "trainer_state.json")["best_model_checkpoint"]
    except (OSError, ValueError, LookupError, TypeError):
        return state.name
    return Path(best).name if isinstance(best, str) else state.name


def _damage(state: Path) -> str:
    """Say what of a state, or of the best one before it, is not as it was saved."""
    try:
        lines = read_text(state / COMPLETE).splitlines()
    except (OSError, ValueError):
        lines = []
    if not lines:
        return f"{state / COMPLETE} is empty or damaged"
    for line in lines:
        digest, _, name = line.partition("  ")
        path = state / name
        if not path.is_file() or path.is_symlink() or sha256(path) != digest:
            return f"{path} is {'not the file that was saved' if path.exists() else 'missing'}"
    best = state.with_name(_best(state))
    return _damage(best) if best.name != state.name else ""
