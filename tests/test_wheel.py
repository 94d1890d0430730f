"""What pip installs: the wheel holds the shipped models, and they answer in a fresh environment without a network."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_BYTES = 25_000_000

PROGRAM = """
import socket

def refuse(*_):
    raise OSError("a shipped model reached for the network")

socket.socket.connect = socket.getaddrinfo = refuse

import json

import anndata as ad
import numpy as np

import polygene as pg

said = {"file": pg.__file__}
for name in ("polygene-512", "polygene-2432"):
    model = pg.PolyGene.from_pretrained(name)
    counts_CG = np.random.default_rng(0).poisson(1.0, (5, len(model.tokenizer.panel))).astype(np.float32)
    adata = ad.AnnData(counts_CG)
    adata.var_names = list(model.tokenizer.panel.symbols)
    pg.tl.annotate(adata, model)
    said[name] = adata.obs["polygene_cell_type_probability"].tolist()
print(json.dumps(said))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without what this environment says of Python and of the package; what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_is_small_and_its_models_annotate_in_a_fresh_environment_without_a_network(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", ROOT, "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, cwd=tmp_path)
    (wheel,) = tmp_path.glob("polygene-*.whl")
    assert 500_000 < wheel.stat().st_size < MOST_BYTES

    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # not its .pth files: no polygene

    said = json.loads(run(python, "-c", PROGRAM, cwd=tmp_path).splitlines()[-1])
    assert Path(said["file"]).is_relative_to(site)
    for name in ("polygene-512", "polygene-2432"):
        assert len(said[name]) == 5
        assert all(0 < probability <= 1 for probability in said[name])


def test_wheel_and_sdist_are_the_same_bytes_wherever_and_whenever_they_are_built(tmp_path: Path) -> None:
    built = []
    for number, day in enumerate((1_600_000_000, 1_700_000_000)):
        source = tmp_path / f"source-{number}"
        for name in ("src", "tests", "benchmarks", "recipes", "docs"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
            shutil.copyfile(ROOT / name, source / name)
        for path in source.rglob("*"):
            os.utime(path, (day, day))
        run(sys.executable, "-m", "hatchling", "build", "-d", tmp_path / f"dist-{number}", cwd=source)
        made = sorted((tmp_path / f"dist-{number}").iterdir())
        built.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made})
    assert built[0] == built[1]
    assert {Path(name).suffix for name in built[0]} == {".whl", ".gz"}
