"""The corpora of the shipped models: apply the mapping in recipes/corpus to the data, and hold donors out.

    python -m benchmarks.models.corpus --data DIR --out DIR

writes DIR/split, DIR/train and DIR/external, one harmonised .h5ad a file by its role (recipes/corpus/sources.toml), and
of the first two the corpora DIR/corpus-512 and DIR/corpus-2432. Of profiles cells are sampled, one .h5ad a study, since
a file measures what its var lists. At most 6,000 cells of a file are kept (`--max-cells`), so that no study is a sixth
of the corpus. In the files `obs` holds the CELLxGENE columns with their ontology ids, and what the authors wrote as
author_<column>. Only what is left of `donor_id` can be held out: of files that train whole it is author_donor_id. The
same corpora by hand:

    polygene prepare DIR/split/*.h5ad DIR/train/*.h5ad --config recipes/corpus/prepare.toml --genes 512 --out corpus

Printed is what became of every file: cells, donors, labels, and how much of each panel it measures. No model is asked.
The last line is one JSON object.
"""

import argparse
import sys
import tempfile
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.shared import command, effort, files
from polygene import pp
from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig
from polygene.runtime.toml import build, read_toml
from polygene.vocab.columns import SYNTHETIC
from polygene.vocab.panel import GenePanel

MAPPING = Path(__file__).parents[2] / "recipes" / "corpus"
ONTOLOGIES = {"cell_type": "CL", "tissue": "UBERON", "disease": "MONDO", "development_stage": "HsapDv"}
"""Columns of `obs` whose labels are renamed, and the ontology of each; a healthy sample is PATO:0000461, normal."""
SEX = "sex"
STUDY = "dataset"  # the column of profiles that holds the study
PER_PROFILE = 40  # cells sampled from each profile
MOST = 6_000  # cells of a file


class MappingError(ValueError):
    """The mapping does not cover the data."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What sources.toml says of a file; its head explains each."""

    name: str
    role: Literal["split", "train", "external", "left out"]
    reason: str
    unclear: str
    file: str = ""
    measured: str = ""
    group: str = ""
    apart: str = ""
    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    other_people_than: str = ""
    sex_inferred: Literal["", "used", "apart"] = ""
    sex_reason: str = ""
    not_given: Sequence[str] = ()

    @property
    def of_file(self) -> str:
        """The name of its file in data.toml, and of its labels and donors."""
        return self.file or self.name


def read_sources(folder: Path = MAPPING) -> dict[str, Source]:
    """Give what sources.toml says by name."""
    tables = tomllib.loads((folder / "sources.toml").read_text(encoding="utf-8"))["source"]
    return {table["name"]: Source(**table) for table in tables}


def read_groups(folder: Path = MAPPING) -> list[dict[str, Any]]:
    """Give the groups of left_out.toml: `name`, `fold`, `sources` and `scores` of each."""
    groups: list[dict[str, Any]] = tomllib.loads((folder / "left_out.toml").read_text(encoding="utf-8"))["group"]
    return groups


def left_out(names: Sequence[str], fold: str | None) -> set[str]:
    """Give the sources of these groups and of a fold.

    Raises
    ------
    MappingError
        There is no such group or fold.
    """
    groups = read_groups()
    known, folds = {group["name"] for group in groups}, {group["fold"] for group in groups}
    if missing := sorted({*names} - known) or ([fold] if fold and fold not in folds else []):
        msg = (
            f"left_out.toml has no {missing[0]!r}; its groups are {', '.join(sorted(known))}, its folds {sorted(folds)}"
        )
        raise MappingError(msg)
    return {one for group in groups if group["name"] in names or group["fold"] == fold for one in group["sources"]}


def sources_of(data: Path | None) -> dict[str, Source]:
    """What sources.toml says of the files that the data folder may hold: a miniature lists few."""
    entries = files.catalogue_of(data)
    return {name: source for name, source in read_sources().items() if source.of_file in entries}


def read_table(name: str, folder: Path = MAPPING) -> pd.DataFrame:
    """Read labels.tsv or donors.tsv; an empty field is an empty text."""
    return pd.read_csv(folder / name, sep="\t", dtype=str, keep_default_na=False, quoting=3)


def harmonise(
    cells: ad.AnnData, source: Source, labels: pd.DataFrame, donors: pd.DataFrame, others: pd.DataFrame | None = None
) -> ad.AnnData:
    """Give the cells of a file that are used, with the labels of the mapping.

    Parameters
    ----------
    others
        `obs` of the file `other_people_than`.

    Raises
    ------
    MappingError
        A label has no row in labels.tsv.
    """
    obs = cells.obs
    used = np.ones(len(obs), dtype=bool)
    for column, values in source.keep.items():
        used &= obs[column].isin(values).to_numpy()
    for column, values in source.without.items():
        used &= ~obs[column].isin(values).to_numpy()
    if others is not None:
        known = set(zip(others[SEX], others["development_stage"], strict=True))
        used &= [pair not in known for pair in zip(obs[SEX], obs["development_stage"], strict=True)]
    cells = cells[used].copy()
    obs = cells.obs
    new = pd.DataFrame(index=obs.index)
    donors = donors[donors["source"] == source.of_file].set_index("donor_id")
    donor = obs["donor_id"].astype(object) if "donor_id" in obs else pd.Series(np.nan, obs.index, dtype=object)
    person = donor.replace({old: one for old, one in donors["donor"].items() if one})
    new["donor_id"] = person if source.role != "train" else pd.Series(np.nan, obs.index, dtype=object)
    new["author_donor_id"] = donor
    columns = {name: obs[name].astype(object) for name in (*ONTOLOGIES, SEX) if name in obs}
    for name in (SEX, "development_stage"):
        told = {old: one for old, one in donors[name].items() if one}
        if told:
            columns[name] = donor.map(told).fillna(columns.get(name, pd.Series(np.nan, obs.index, dtype=object)))
    if "sex_inferred" in obs:
        new["sex_inferred"] = obs["sex_inferred"].astype(object)
        if source.sex_inferred == "used":
            columns[SEX] = columns.get(SEX, new["sex_inferred"]).fillna(new["sex_inferred"])
    for name, column in columns.items():
        if name in source.not_given:
            new[f"author_{name}"] = column
        elif name in ONTOLOGIES:
            new[f"author_{name}"] = column
            new[name], new[f"{name}_ontology_term_id"] = _renamed(column, name, obs, source, labels)
        else:
            new[name] = column
    new = new.apply(lambda column: pd.Categorical(column))
    for name in ("profile", "virtual_study", SYNTHETIC):
        if name in obs:
            new[name] = obs[name]
    cells.obs = new
    cells.uns = {"title": source.name} | {name: cells.uns[name] for name in (SYNTHETIC,) if name in cells.uns}
    return cells


def _renamed(
    column: pd.Series, name: str, obs: pd.DataFrame, source: Source, labels: pd.DataFrame
) -> tuple[pd.Series, pd.Series]:
    """Give a column its names and ids by labels.tsv; a row with `where` goes before one without."""
    rows = labels[labels["source"].isin([source.of_file, "*"]) & (labels["column"] == name)]
    names, ids = (pd.Series(np.nan, column.index, dtype=object) for _ in range(2))
    open_C = column.notna()
    for row in rows.sort_values("where", ascending=False).itertuples():
        here = open_C & (column == row.label)
        if row.where:
            where, _, value = row.where.partition("=")
            here &= obs[where] == value
        open_C &= ~here
        if row.id:
            names[here], ids[here] = row.name, row.id
    if open_C.any():
        msg = f"{source.name}: labels.tsv has no row for {name} {sorted(column[open_C].unique())}"
        raise MappingError(msg)
    return names, ids


def sample(profiles: ad.AnnData, source: Source, measured: pd.DataFrame, n_per_profile: int) -> dict[str, ad.AnnData]:
    """Sample cells from the profiles of a file that are used, by study."""
    for column, values in source.keep.items():
        profiles = profiles[profiles.obs[column].isin(values)].copy()
    # A file without matrices in the table is one study: of its genes those that the table knows are kept.
    of_P = profiles.obs[STUDY].astype(str) if STUDY in profiles.obs else pd.Series("", profiles.obs_names)
    of_P = of_P.where(of_P.isin(measured.columns), "")
    sampled = {}
    for number, study in enumerate(sorted(of_P.unique())):
        known = measured[study] > 0 if study else measured.index.isin(profiles.var_names)
        genes = measured.index[known]
        name = f"{source.name}-{study}".rstrip("-")
        # A seed of its own for each study, so that one more study changes none of the others.
        sampled[name] = pp.cells_from_profiles(
            profiles[(of_P == study).to_numpy()], n_per_profile=n_per_profile, seed=number, measured=genes
        )
    return sampled


def write(
    data: Path | None,
    out: Path,
    sources: Mapping[str, Source],
    *,
    n_per_profile: int = PER_PROFILE,
    max_cells: int = MOST,
    without: Collection[str] = (),
) -> dict[str, list[Path]]:
    """Write the files that are used; returns where, by source. Those `without` which a corpus is made keep donors."""
    labels, donors = read_table("labels.tsv"), read_table("donors.tsv")
    written: dict[str, list[Path]] = {}
    for source in sources.values():
        if source.role == "left out":
            continue
        folder = out / ("left_out" if source.name in without else source.role)
        if source.name in without:
            source = replace(source, role="external")
        cells = ad.read_h5ad(files.locate(source.of_file, data))
        others = None
        if source.other_people_than:
            others = ad.read_h5ad(files.locate(source.other_people_than, data), backed="r").obs
        parts = {source.name: cells}
        if source.measured:
            measured = pd.read_csv(files.locate(source.measured, data), index_col=0)
            parts = sample(cells, source, measured, n_per_profile)
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            harmonised = harmonise(part, source, labels, donors, others)
            if max_cells and harmonised.n_obs > max_cells:
                chosen = np.random.default_rng(0).choice(harmonised.n_obs, max_cells, replace=False)
                harmonised = harmonised[np.sort(chosen)].copy()
            path = folder / f"{name}.h5ad"
            harmonised.write_h5ad(path, compression="gzip")
            written.setdefault(source.name, []).append(path)
    return written


def make(
    data: Path | None, out: Path, sizes: Sequence[int], **options: Any
) -> tuple[dict[str, list[Path]], dict[int, Corpus]]:
    """Write the files and, in the new folder `out`, a corpus for each size of panel; returns both."""
    out.mkdir(parents=True)
    sources = sources_of(data)
    paths = write(data, out, sources, **options)
    learned = [path for some in paths.values() for path in some if path.parent.name in ("split", "train")]
    config = build(PrepareConfig, read_toml(MAPPING / "prepare.toml"))
    return paths, {n: effort.prepare(learned, out / f"corpus-{n}", config=replace(config, n_genes=n)) for n in sizes}


def describe(source: Source, path: Path, panels: Mapping[int, GenePanel], corpus: Corpus | None) -> dict[str, Any]:
    """Say in numbers what a file holds and how much of each panel it measures."""
    cells = ad.read_h5ad(path, backed="r")
    found: dict[str, Any] = {"role": source.role, "cells": cells.n_obs}
    donor = cells.obs.get("author_donor_id", cells.obs.get("donor_id"))
    found["donors"] = 0 if donor is None else int(donor.nunique())
    if source.role in ("split", "external"):
        found["donors"] = int(cells.obs["donor_id"].nunique())
    found["labels"] = {
        name: [int(cells.obs[name].nunique()), int(cells.obs[name].notna().sum())]
        for name in (SEX, *ONTOLOGIES)
        if name in cells.obs
    }
    if corpus is not None and path.stem in corpus.sources:
        info = corpus.info["sources"][corpus.sources.index(path.stem)]
        found["parts"] = [[info["cells"][part], info["donors"][part]] for part in SPLITS]
    found["coverage"] = {n: round(float(panel.match(cells.var).measured_G.mean()), 4) for n, panel in panels.items()}
    return found


def show(console: Console, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table."""
    sizes = list(next(iter(rows.values()))["coverage"])
    parts = [f"{part} (donors)" for part in SPLITS]
    table = Table("source", "role", "cells", "donors", *parts, SEX, *ONTOLOGIES, *map(str, sizes),
                  title="files by role; labels of each phenotype; share of each panel that is measured")  # fmt: skip
    for name, row in rows.items():
        split = [f"{cells:,} ({donors})" for cells, donors in row["parts"]] if "parts" in row else ["–"] * len(parts)
        labels = [str(row["labels"].get(column, ["–"])[0]) for column in (SEX, *ONTOLOGIES)]
        coverage = [f"{share:.0%}" for share in row["coverage"].values()]
        table.add_row(name, row["role"], f"{row['cells']:,}", str(row["donors"]), *split, *labels, *coverage)
    console.print(table)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to make; else a temporary one")
    parser.add_argument("--genes", type=int, nargs="+", default=[512, 2432], help="sizes of the panels")
    parser.add_argument(
        "--max-cells", type=int, default=MOST, metavar="N", help=f"of a file (default {MOST:,}; 0: all)"
    )
    parser.add_argument("--per-profile", type=int, default=PER_PROFILE, metavar="N", help="cells sampled of a profile")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="GROUP", help="studies of recipes/corpus/left_out.toml"
    )
    parser.add_argument("--fold", metavar="FOLD", help="leave out the groups of this fold")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the corpora, print the table of their files, and return it."""
    sizes = effort.few(options.genes)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            without = left_out(options.leave_out, options.fold)
            kept = {"n_per_profile": options.per_profile, "max_cells": options.max_cells, "without": without}
            paths, corpora = make(options.data, options.out or Path(scratch) / "corpora", sizes, **kept)
        except (FileExistsError, files.MissingDataError, MappingError) as error:
            sys.exit(str(error))
        corpus, panels = corpora[sizes[0]], {n: corpus.tokenizer.panel for n, corpus in corpora.items()}
        rows = {}
        for name, source in sources_of(options.data).items():
            whole = [options.data / files.catalogue_of(options.data)[source.of_file].file]
            for path in paths.get(name, whole):
                if path.suffix == ".h5ad":
                    rows[path.stem if name in paths else name] = describe(source, path, panels, corpus)
        show(Console(width=220), rows)
    config = corpus.info["config"]
    return {"seed": config["seed"], "fractions": config["fractions"], "sources": rows}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("corpus", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
