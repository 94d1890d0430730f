"""Make src/polygene/vocab/cell_types.tsv.gz again: types of the Cell Ontology, their other names, what stands above.

    python recipes/vocab/cell_types.py      # needs the extra bench

The source is the Cell Ontology (https://obofoundry.org/ontology/cl, licence CC BY 4.0) as cellxgene-ontology-guide
carries it. Obsolete terms are left out; a synonym is kept where it means one term and is the name of none.
"""

import gzip
import importlib.metadata
from collections import Counter
from pathlib import Path

from cellxgene_ontology_guide.ontology_parser import OntologyParser

TABLE = Path(__file__).parents[2] / "src" / "polygene" / "vocab" / "cell_types.tsv.gz"
HEADER = """\
# Cell types: id (CL: and 7 digits, leading zeros left out), name, ids of the types right above it, synonyms.
# Source: Cell Ontology {version}, obofoundry.org/ontology/cl, by way of cellxgene-ontology-guide {guide}.
# Licence: CC BY 4.0.
# Left out: obsolete terms, synonyms that may mean two types. Made by recipes/vocab/cell_types.py.
"""


def main() -> None:
    schema = OntologyParser().cxg_schema
    live = {term: facts for term, facts in schema.ontology("CL").items() if not facts["deprecated"]}
    above = {term: set(facts["ancestors"]) & set(live) for term, facts in live.items()}
    names = {facts["label"].lower() for facts in live.values()}
    meant = Counter(name.lower() for facts in live.values() for name in set(facts.get("synonyms", ())))
    lines = []
    for term, facts in sorted(live.items()):
        parents = sorted(above[term] - {far for near in above[term] for far in above[near]})
        others = [name for name in facts.get("synonyms", ()) if meant[name.lower()] == 1 and name.lower() not in names]
        fields = [str(int(term[3:])), facts["label"], "|".join(str(int(one[3:])) for one in parents), "|".join(others)]
        lines.append("\t".join(fields) + "\n")
    head = HEADER.format(
        version=schema.supported_ontologies["CL"]["version"].removeprefix("v"),
        guide=importlib.metadata.version("cellxgene-ontology-guide"),
    )
    TABLE.write_bytes(gzip.compress((head + "".join(lines)).encode(), 9, mtime=0))
    print(f"{TABLE}: {len(lines):,} types, {TABLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
