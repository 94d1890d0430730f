"""benchmarks/shared/files.py and the catalogue it reads."""

import argparse
import hashlib
import os
import re
from pathlib import Path

import pytest

from benchmarks.shared import files

KEYS = {
    "beware",
    "bytes",
    "conversion",
    "doi",
    "file",
    "good_for",
    "kind",
    "labels",
    "licence",
    "licence_seen",
    "name",
    "paths",
    "repository",
    "sha256",
    "study",
    "terms",
}
MATRIX_KEYS = {"cells", "genes", "nonzero", "total"}


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, files.Entry]:
    """A catalogue of one file, which is in tmp_path."""
    (tmp_path / "cells.h5ad").write_bytes(b"cells")
    text = f'[[file]]\nname = "cells"\nfile = "cells.h5ad"\nsha256 = "{hashlib.sha256(b"cells").hexdigest()}"\n'
    (tmp_path / "data.toml").write_text(text, encoding="utf-8")
    return files.catalogue(tmp_path / "data.toml")


def parse(*arguments: str) -> Path | None:
    parser = argparse.ArgumentParser()
    files.add_data_option(parser)
    return parser.parse_args(arguments).data


def test_a_file_that_agrees_is_found(entries: dict, tmp_path: Path) -> None:
    assert files.locate("cells", tmp_path, entries=entries) == tmp_path / "cells.h5ad"


def test_an_altered_file_is_refused_by_name_even_after_it_was_found(entries: dict, tmp_path: Path) -> None:
    files.locate("cells", tmp_path, entries=entries)
    (tmp_path / "cells.h5ad").write_bytes(b"other cells")
    with pytest.raises(files.MissingDataError, match=r"^cells: .*SHA-256"):
        files.locate("cells", tmp_path, entries=entries)


def test_a_file_is_read_once_a_process(entries: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.locate("cells", tmp_path, entries=entries)
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    files.locate("cells", tmp_path, entries=entries)


@pytest.mark.parametrize("folder", [None, Path("nowhere")], ids=["no folder", "no file"])
def test_what_is_missing_is_one_line_that_begins_with_the_name(entries: dict, folder: Path | None) -> None:
    with pytest.raises(files.MissingDataError, match=r"\Acells: .+") as caught:
        files.locate("cells", folder, entries=entries)
    assert "\n" not in str(caught.value)


def test_a_misspelt_name_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="did you mean 'pbmc3k_10x'"):
        files.locate("pbmc3k", tmp_path)


def test_the_folder_is_the_option_or_else_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYGENE_DATA", raising=False)
    assert parse() is None
    monkeypatch.setenv("POLYGENE_DATA", "from-variable")
    assert parse() == Path("from-variable")
    assert parse("--data", "from-option") == Path("from-option")


@pytest.mark.parametrize("entry", files.catalogue().values(), ids=lambda entry: entry.name)
def test_every_entry_says_whence_what_and_under_which_terms(entry: files.Entry) -> None:
    is_matrix = entry.file.endswith(".h5ad")
    assert set(entry.facts) == (KEYS | MATRIX_KEYS if is_matrix else KEYS)
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.file.startswith(entry.name + ".")
    assert entry.facts["repository"].startswith("https://github.com/")
    assert entry.facts["kind"] in ({"counts", "log1p", "profiles"} if is_matrix else {"table"})
    assert entry.facts["terms"].endswith(".")
    assert entry.facts["paths"]


def test_no_two_entries_are_one_file() -> None:
    paths = [entry.file for entry in files.catalogue().values()]
    assert len(paths) == len(set(paths)) == 32


@pytest.mark.data
@pytest.mark.parametrize("entry", files.catalogue().values(), ids=lambda entry: entry.name)
def test_the_real_file_is_the_one_described(entry: files.Entry) -> None:
    import anndata as ad

    path = files.locate(entry.name, Path(os.environ["POLYGENE_DATA"]))
    assert path.stat().st_size == entry.facts["bytes"]
    if path.suffix != ".h5ad":
        return
    adata = ad.read_h5ad(path)
    assert adata.shape == (entry.facts["cells"], entry.facts["genes"])
    assert adata.X.nnz == entry.facts["nonzero"]
    assert adata.X.sum(dtype="float64") == pytest.approx(entry.facts["total"], abs=0.01)
    for column, (n_labels, n_cells) in entry.facts["labels"].items():
        assert (adata.obs[column].nunique(), adata.obs[column].notna().sum()) == (n_labels, n_cells)
