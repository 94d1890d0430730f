"""Kills at random moments, two runs into one place, and full disks: then the same command, and the same bytes."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.faults.scene import PATIENCE, VERBS, Ended, Scene, Tally, digest, end, is_half, leftovers, run, start

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def kills(scene: Scene, tally: Tally, n: int, rng: random.Random) -> None:
    """Kill each verb n times, and run it again."""
    for verb, expected in scene.digests.items():
        for number in tally.trials(n):
            how = SIGNALS[number % len(SIGNALS)]
            folder, kind = scene.place("killed", verb), f"kills of {verb}"
            pid, said = start(folder, VERBS[verb].words)
            time.sleep(rng.uniform(0, 1.05 * scene.seconds[verb]))
            os.kill(pid, how)  # one that has ended is not yet waited for, so its number is still its own
            first, made = end(pid, said), folder / VERBS[verb].out
            if first.blames_us:
                tally.add(kind, "blamed_us", first.said)
            elif is_half(made, expected):
                tally.add(kind, "lost", f"after {how.name} {made.name} is half-written")
            else:
                again(verb, folder, expected, kind, tally)


def again(verb: str, folder: Path, expected: str, kind: str, tally: Tally) -> None:
    """Run the same command once more: the same bytes, nothing beside them."""
    made = folder / VERBS[verb].out
    whole = made.exists() and digest(made) == expected
    second = run(folder, VERBS[verb].words)
    if second.code == -99:
        tally.add(kind, "hung", second.said)
    elif second.blames_us:
        tally.add(kind, "blamed_us", second.said)
    elif second.code and not whole:  # a folder that is whole is not made twice
        tally.add(kind, "lost", f"the same command is refused: {second.said}")
    elif digest(made) != expected:
        tally.add(kind, "lost", f"{made.name} has other bytes than that of a run that nobody disturbed")
    elif left := leftovers(folder):
        tally.add(kind, "lost", f"left behind: {', '.join(left)}")
    else:
        tally.add(kind)


def pairs(scene: Scene, tally: Tally, n: int, rng: random.Random) -> None:
    """Start each verb twice into one place: one at least makes what a single one makes, and none says it without."""
    for verb, expected in scene.digests.items():
        for _ in tally.trials(n):
            folder, kind = scene.place("twice", verb), f"pairs of {verb}"
            first = start(folder, VERBS[verb].words)
            time.sleep(rng.uniform(0, 0.5 * scene.seconds[verb]))
            second = start(folder, VERBS[verb].words)
            ended = [end(*first), end(*second)]
            words = " / ".join(one.said for one in ended)
            if any(one.blames_us for one in ended):
                tally.add(kind, "blamed_us", words)
            elif all(one.code for one in ended) or digest(folder / VERBS[verb].out) != expected:
                tally.add(kind, "lost", words)
            elif left := leftovers(folder):
                tally.add(kind, "lost", f"left behind: {', '.join(left)}")
            else:
                tally.add(kind)


def disks(scene: Scene, tally: Tally, n: int, rng: random.Random) -> None:
    """Run each verb on a disk that is full at some moment, then with room."""
    disk = scene.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        tally.skipped["full disks"] = f"no small disk can be mounted here: {mounted.stderr.strip()}"
        return
    try:
        for verb, expected in scene.digests.items():
            taken = _taken(scene, verb)
            for _ in tally.trials(n):
                _full(scene, tally, verb, expected, rng.randrange(4096, max(taken, 8192)), disk)
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def _taken(scene: Scene, verb: str) -> int:
    made = scene.place("undisturbed", verb)
    run(made, VERBS[verb].words)
    out = made / VERBS[verb].out
    return sum(path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file()) * 2


def _full(scene: Scene, tally: Tally, verb: str, expected: str, room: int, disk: Path) -> None:
    """Leave so much room, run, make room, run again."""
    kind = f"full disks, {verb}"
    inputs = scene.place("full", verb)
    folder = disk / "work"
    subprocess.run(["cp", "-r", str(inputs), str(folder)], check=True)
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(max(free - room, 0)))
    first: Ended = run(folder, VERBS[verb].words, PATIENCE)
    made = folder / VERBS[verb].out
    half = is_half(made, expected) if first.code else digest(made) != expected
    ballast.unlink()
    if first.blames_us:
        tally.add(kind, "blamed_us", first.said)
    elif half:
        tally.add(kind, "lost", f"{made.name} is half-written: {first.said}")
    elif first.code == 0:
        tally.add(kind)  # it fitted
    else:
        again(verb, folder, expected, kind, tally)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
