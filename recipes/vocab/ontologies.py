"""Make the tables of ontologies in src/polygene/vocab again: cell_types, tissues and diseases (.tsv.gz).

    python recipes/vocab/ontologies.py      # needs the extra bench

The sources are the Cell Ontology, UBERON and MONDO as cellxgene-ontology-guide carries them. Obsolete terms are left
out; a synonym is kept where it means one term and is the name of none. What stands above a tissue is what it is or is
part of.
"""

import gzip
import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellxgene_ontology_guide.curated_ontology_term_lists import get_curated_ontology_term_list
from cellxgene_ontology_guide.entities import CuratedOntologyTermList
from cellxgene_ontology_guide.ontology_parser import OntologyParser

FOLDER = Path(__file__).parents[2] / "src" / "polygene" / "vocab"
HEADER = """\
# {what}: id ({prefix}: and 7 digits, leading zeros left out), name, ids of the terms right above it, synonyms.
# Source: {source} {version}, {url}, by way of cellxgene-ontology-guide {guide}.
# Licence: {licence}.
# Left out: obsolete terms{left_out}. Made by recipes/vocab/ontologies.py.
"""
TABLES = {
    "cell_types": ("Cell types", "CL", "Cell Ontology", "obofoundry.org/ontology/cl", "CC BY 4.0"),
    "tissues": ("Tissues", "UBERON", "UBERON", "obofoundry.org/ontology/uberon", "CC BY 3.0"),
    "diseases": ("Diseases", "MONDO", "MONDO", "obofoundry.org/ontology/mondo", "CC BY 4.0"),
}
LEFT_OUT = {
    "cell_types": ", synonyms that may mean two types, the arrow from CD141-positive to plasmacytoid dendritic cells",
    "tissues": ", what is over two steps below CELLxGENE's general tissues, synonyms that may mean two",
    "diseases": ", the finest hereditary diseases, diseases of other animals, synonyms",
}
WRONG = {("CL:0002394", "CL:0000784")}
"""Arrows that are left out: CD141-positive dendritic cells are the conventional ones of type 1, no plasmacytoid ones
(Guilliams et al. 2014, Nature Reviews Immunology 14:571)."""
STEPS = 2  # below a general tissue: the retina's layers, the colon's parts, the cortex' lobes
HEREDITARY, HUMAN, HEALTHY = "MONDO:0003847", "MONDO:0700096", "PATO:0000461"

Terms = Mapping[str, Mapping[str, Any]]


def chosen(name: str, live: Terms) -> set[str]:
    """Choose the terms of a table; what stands above them comes with them."""
    if name == "tissues":
        general = set(get_curated_ontology_term_list(CuratedOntologyTermList.TISSUE_GENERAL)) & set(live)
        near = {t for t, facts in live.items() if any(facts["ancestors"].get(g, 99) <= STEPS for g in general)}
        return general | near
    if name == "diseases":
        inner = {above for facts in live.values() for above in facts["ancestors"]}
        return {
            term
            for term, facts in live.items()
            if HUMAN in facts["ancestors"] and (term in inner or HEREDITARY not in facts["ancestors"])
        }
    return set(live)


def lines(name: str, prefix: str, live: Terms) -> list[str]:
    """Write the lines of a table."""
    first = chosen(name, live)
    kept = first | {above for term in first for above in live[term]["ancestors"] if above in live}
    above = {term: set(live[term]["ancestors"]) & kept for term in kept}
    names = {live[term]["label"].lower() for term in kept}
    meant = Counter(one.lower() for term in kept for one in set(live[term].get("synonyms", ())))
    written = [] if name != "diseases" else [f"{HEALTHY}\tnormal\t\thealthy\n"]
    for term in sorted(kept):
        right_above = above[term] - {far for near in above[term] for far in above[near]}
        parents = sorted(one for one in right_above if (term, one) not in WRONG)
        others = [one for one in live[term].get("synonyms", ()) if meant[one.lower()] == 1 and one.lower() not in names]
        fields = [
            str(int(term.removeprefix(f"{prefix}:"))),
            live[term]["label"],
            "|".join(str(int(one.removeprefix(f"{prefix}:"))) for one in parents),
            "" if name == "diseases" else "|".join(others),
        ]
        written.append("\t".join(fields) + "\n")
    return written


def main() -> None:
    schema = OntologyParser().cxg_schema
    for name, (what, prefix, source, url, licence) in TABLES.items():
        live = {
            term: facts
            for term, facts in schema.ontology(prefix).items()
            if not facts["deprecated"] and term.startswith(f"{prefix}:")
        }
        head = HEADER.format(
            what=what, prefix=prefix, source=source, url=url, licence=licence, left_out=LEFT_OUT[name],
            version=schema.supported_ontologies[prefix]["version"].removeprefix("v"),
            guide=importlib.metadata.version("cellxgene-ontology-guide"),
        )  # fmt: skip
        table, path = lines(name, prefix, live), FOLDER / f"{name}.tsv.gz"
        path.write_bytes(gzip.compress((head + "".join(table)).encode(), 9, mtime=0))
        print(f"{path}: {len(table):,} terms, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
