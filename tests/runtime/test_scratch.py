"""Temporary folders: gone with their process, or with the next one where it was killed."""

import os
import subprocess
import sys
from pathlib import Path

CODE = "import sys; from polygene.runtime.scratch import scratch_folder as f; print(f(), flush=True); {}"


def begin(code: str, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process with a temporary folder, and wait until it has one."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(code)],
        env=os.environ | {"TMPDIR": str(folder)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_lives_is_not(tmp_path: Path) -> None:
    killed, dead = begin("sys.stdin.read()", tmp_path)
    living, alive = begin("sys.stdin.read()", tmp_path)
    (dead / "matrix").write_text("large")
    (tmp_path / "polygene-of-somebody").mkdir()
    killed.kill()
    killed.communicate()
    assert dead.is_dir()
    next_one, last = begin("", tmp_path)
    next_one.communicate(timeout=60)
    assert not dead.exists()
    assert alive.is_dir()
    assert not last.exists()
    living.communicate("", timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["polygene-of-somebody"]
