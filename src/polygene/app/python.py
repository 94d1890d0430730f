"""The lines of Python that give what the page shows."""

from typing import Any


def python_of(state: dict[str, Any]) -> str:
    """Write the lines that give in Python what a session has."""
    file, run, asked = state["file"], state["run"], state.get("asked")
    options = {key: value for key, value in run["options"].items() if key != "model" and value not in (None, [])}
    layer = {"layer": file["layer"]} if file["layer"] else {}
    words = "".join(f", {key}={value!r}" for key, value in (options | layer).items())
    name = file["name"]
    readers = {".h5": f"sc.read_10x_h5({name!r})", ".zip": f"sc.read_10x_mtx({name[:-4]!r})  # the folder, unpacked"}
    source = readers.get(name[name.rfind(".") :], f"ad.read_h5ad({name!r})")
    source = "pg.datasets.pbmc()" if file["example"] else source
    lines = [
        "import anndata as ad",
        "import polygene as pg",
        "import scanpy as sc",
        "from polygene.app import lay_out",
        "",
    ]
    lines += [f"adata = {source}", f"pg.tl.annotate(adata, {run['options']['model']!r}{words})"]
    if state.get("plane") is None:
        more = f", layer={file['layer']!r}" if file["layer"] else ""
        lines.append(f"adata.obsm['X_polygene_umap'] = lay_out(adata, {run['options']['model']!r}{more})")
    if asked:
        lines += ["", "# association in the training data, not the effect of an intervention"]
        lines += ["selected = adata[open('selected-cells.txt').read().split('\\n')].copy()", *asked]
    return "\n".join([*lines, ""])


def lines_of(
    file: dict[str, Any], model: str, changes: dict[str, str], genes: dict[str, list[str]], donor: str
) -> list[str]:
    """Write the lines that ask "what if" of selected cells; labels that the file lacks are the predicted ones."""
    by = f", donor={donor!r}" if donor != "donor_id" else ""
    if not changes:
        words = "".join(f", {name}={some!r}" for name, some in genes.items() if some)
        return [f"pg.tl.perturb(selected, {model!r}{words}{by})"]
    absent = [one for one in file["phenotypes"] if one["name"] in changes and not one["in_file"]]
    taken = [f"selected.obs[{one['column']!r}] = selected.obs[{'polygene_' + one['name']!r}]" for one in absent]
    return [*taken, f"pg.tl.counterfactual(selected, {model!r}, {changes!r}{by})"]
