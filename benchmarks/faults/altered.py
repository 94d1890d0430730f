"""Altered checkpoints, run folders and corpora: the same result, or one message; no code runs."""

import json
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path

from benchmarks.faults.scene import PATIENCE, VERBS, Ended, Scene, Tally, digest, end, run, start
from polygene.model.folder import DECISIVE, OPTIONAL, SUMS
from polygene.runtime.files import sha256

VALUES = (None, -1, 0, 1e30, 10**12, "x", [], {}, [[1]], True, "[" * 100_000)
"""What a value of a JSON file is replaced by."""
MARK = "code-ran"


class _Payload:
    """An object that, unpickled, writes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {MARK}",)


def alter(path: Path, rng: random.Random) -> str:
    """Alter a file in one of seven ways; returns what was done."""
    how, content = rng.randrange(7), bytearray(path.read_bytes())
    at = rng.randrange(max(len(content), 1))
    if how == 0 and content:
        content[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        del content[at:]
    elif how == 2:
        content[at:at] = rng.randbytes(rng.randrange(1, 200))
    elif how == 3 and path.suffix in (".json", ".toml"):
        return _other_value(path, rng)
    elif how == 4:
        path.write_bytes(b"")
        return "emptied"
    elif how == 5:
        path.unlink()
        return "removed"
    else:
        content = bytearray(pickle.dumps(_Payload()))
    path.write_bytes(content)
    return ("a bit", "cut off", "more bytes", "pickled code", "", "", "pickled code")[how]


def _other_value(path: Path, rng: random.Random) -> str:
    value = rng.choice(VALUES)
    if path.suffix == ".toml":
        lines = path.read_text(encoding="utf-8").splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if " = " in line])
        lines[at] = f"{lines[at].partition(' = ')[0]} = {json.dumps(value)}"
        path.write_text("\n".join(lines), encoding="utf-8")
        return f"{lines[at][:60]}"
    table = json.loads(path.read_text(encoding="utf-8"))
    holder, key = table, rng.choice(list(table))
    while isinstance(holder[key], dict) and holder[key] and rng.random() < 0.7:
        holder, key = holder[key], rng.choice(list(holder[key]))
    holder[key] = value
    path.write_text(json.dumps(table), encoding="utf-8")
    return f"{key} = {str(value)[:40]}"


def checkpoints(scene: Scene, tally: Tally, n: int, rng: random.Random) -> None:
    """Alter a checkpoint and annotate with it: in half of the trials its hashes are made to fit."""
    expected = _predictions(scene.place("checkpoint", "annotate"))[1]
    for number in tally.trials(n):
        folder = scene.place("checkpoint", "annotate")
        model, relisted = folder / "model", number % 2 == 0
        name = rng.choice([one for one in (*DECISIVE, *OPTIONAL, SUMS, "metrics.json") if (model / one).is_file()])
        done = alter(model / name, rng)
        if relisted and name != SUMS:
            _list_again(model)
        kind = f"altered checkpoints, hashes {'made to fit' if relisted else 'kept'}"
        _judge(tally, folder, kind, f"{name}: {done}", None if relisted else expected)
    for make in FOREIGN:
        folder = scene.place("checkpoint", "annotate")
        done = make(folder / "model", folder)
        _judge(tally, folder, "foreign files and links in checkpoints", done, expected)


def _list_again(model: Path) -> None:
    names = [name for name in (*DECISIVE, *OPTIONAL) if (model / name).is_file()]
    (model / SUMS).write_text("".join(f"{sha256(model / name)}  {name}\n" for name in names), encoding="utf-8")


def _shards(model: Path, _: Path) -> str:
    shutil.copyfile(model / "model.safetensors", model / "shard-0-model-00001-of-00001.safetensors")
    return "an unlisted shard"


def _index(model: Path, _: Path) -> str:
    shutil.copyfile(model / "model.safetensors", model / "other.safetensors")
    table = {"metadata": {}, "weight_map": {"decoder.weight": "other.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(table), encoding="utf-8")
    return "an unlisted index"


def _adapter(model: Path, _: Path) -> str:
    table = {"peft_type": "LORA", "base_model_name_or_path": str(model)}
    (model / "adapter_config.json").write_text(json.dumps(table), encoding="utf-8")
    return "an adapter"


def _pickled(model: Path, _: Path) -> str:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload()))
    return "pickled weights"


def _module(model: Path, _: Path) -> str:
    (model / "modeling_polygene.py").write_text(f"import os; os.system('touch {MARK}')", encoding="utf-8")
    return "a module"


def _link_out(model: Path, folder: Path) -> str:
    (model / "model.safetensors").rename(folder / "elsewhere")
    (model / "model.safetensors").symlink_to(folder / "elsewhere")
    return "a link out of the folder"


def _endless(model: Path, _: Path) -> str:
    (model / "metrics.json").unlink()
    (model / "metrics.json").symlink_to("/dev/zero")
    return "a link to an endless file"


def _pipe(model: Path, _: Path) -> str:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    return "a pipe"


def _layers(model: Path, _: Path) -> str:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}), encoding="utf-8")
    _list_again(model)
    return "a thousand million layers"


def _header(model: Path, _: Path) -> str:
    table = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(600_000)}
    text = json.dumps(table).encode()
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    _list_again(model)
    return "a header of 600,000 tensors"


def _labels(model: Path, _: Path) -> str:
    table = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    table["phenotypes"][0]["labels"] = [f"label {i}" for i in range(10**6)]
    (model / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    _list_again(model)
    return "a million labels"


FOREIGN = (_shards, _index, _adapter, _pickled, _module, _link_out, _endless, _pipe, _layers, _header, _labels)


def _predictions(folder: Path) -> tuple[Ended, str]:
    ended = run(folder, ("annotate", "cells.h5ad", "--model", "model", "--out", "out.parquet"))
    out = folder / "out.parquet"
    return ended, digest(out) if out.exists() else ""


def _judge(tally: Tally, folder: Path, kind: str, done: str, expected: str | None) -> None:
    """Annotate: a message, or predictions; those that are `expected` where the hashes do not fit what was altered."""
    ended, found = _predictions(folder)
    if (folder / MARK).exists():
        tally.add(kind, "let_in", f"{done}: code ran")
    elif ended.code == -99:
        tally.add(kind, "hung", done)
    elif ended.blames_us or ended.code not in (0, 2):
        tally.add(kind, "blamed_us", f"{done}: {ended.code} {ended.said}")
    elif ended.code == 0 and expected is not None and found != expected:
        tally.add(kind, "let_in", f"{done}: other predictions")
    else:
        tally.add(kind)


def run_folders(scene: Scene, tally: Tally, n: int, rng: random.Random) -> None:
    """Stop a training, alter a file of its folder, and go on: the same weights, or one message."""
    kind = "altered run folders"
    for _ in tally.trials(n):
        folder = scene.place("run-folder", "train")
        pid, said = start(folder, VERBS["train"].words)
        states, began = folder / "run" / "training", time.monotonic()
        while time.monotonic() - began < PATIENCE and not list(states.glob("checkpoint-*/complete")):
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        end(pid, said)
        files = sorted(path for path in (folder / "run").rglob("*") if path.is_file())
        path = rng.choice(files)
        done = f"{path.relative_to(folder)}: {alter(path, rng)}"
        ended = run(folder, VERBS["train"].words)
        if (folder / MARK).exists():
            tally.add(kind, "let_in", f"{done}: code ran")
        elif ended.code == -99:
            tally.add(kind, "hung", done)
        elif ended.blames_us or ended.code not in (0, 2):
            tally.add(kind, "blamed_us", f"{done}: {ended.said}")
        elif ended.code == 0 and digest(folder / "run") != scene.digests["train"]:
            tally.add(kind, "lost", f"{done}: it went on in silence to other weights")
        else:
            tally.add(kind)


def corpora(scene: Scene, tally: Tally, n: int, rng: random.Random) -> None:
    """Alter a file of a corpus, and read all of it as a training does."""
    for _ in tally.trials(n):
        folder = scene.place("corpus", "train")
        files = sorted(path for path in (folder / "corpus").rglob("*") if path.is_file())
        path = rng.choice(files)
        before = digest(folder / "corpus")
        done = f"{path.relative_to(folder)}: {alter(path, rng)}"
        if digest(folder / "corpus") == before:
            continue
        ended = run(folder, _read_corpus)
        if (folder / MARK).exists():
            tally.add("altered corpora", "let_in", f"{done}: code ran")
        elif ended.code == 3:
            tally.add("altered corpora", "let_in", f"{done}: it was read in silence")
        elif ended.code != 2:
            tally.add("altered corpora", "hung" if ended.code == -99 else "blamed_us", f"{done}: {ended.said}")
        else:
            tally.add("altered corpora")


def _read_corpus() -> None:
    from polygene.corpus.arrow import SPLITS
    from polygene.corpus.corpus import Corpus
    from polygene.errors import PolyGeneError

    try:
        corpus = Corpus("corpus")
        for name in SPLITS:
            corpus.split(name).cells(slice(None))
    except PolyGeneError:
        raise SystemExit(2) from None
    raise SystemExit(3)
