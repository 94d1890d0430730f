"""The page that shows the hand-over is run as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import scanpy as sc

PAGE = (Path(__file__).parents[2] / "docs/interoperation.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_that_the_page_says_runs(make_adata, write_as, tiny_model, tmp_path):
    adata = make_adata()
    write_as(adata, tmp_path, "10x.h5").rename(tmp_path / "filtered_feature_bc_matrix.h5")
    write_as(adata, tmp_path, "mtx").rename(tmp_path / "filtered_feature_bc_matrix")
    adata.var["feature_name"], adata.raw = adata.var_names, adata
    adata.var["feature_id"] = [f"ENSG{g:011d}" for g in range(30)]
    adata.var_names = [str(g) for g in range(30)]
    adata.write_h5ad(tmp_path / "census.h5ad")
    adata.var_names = adata.var.pop("feature_id")
    adata.raw = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.write_h5ad(tmp_path / "cellxgene.h5ad")
    tiny_model.save_pretrained(tmp_path / "polygene-512")
    program = ["from typer.testing import CliRunner", "from polygene.cli.commands import app"]
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL):
        if language == "python":
            program.append(block)
        else:
            arguments = [shlex.split(line)[1:] for line in block.splitlines()]
            program += [f"assert CliRunner().invoke(app, {some}).exit_code == 0" for some in arguments]
    program.append("adata.write_h5ad('last.h5ad')")
    # In a process of its own: what it imports changes the last bit of what torch computes afterwards.
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    annotated = ad.read_h5ad(tmp_path / "last.h5ad")
    assert annotated.obs["polygene_cell_type"].notna().all()
    assert annotated.obsm["X_umap"].shape == (150, 2)
    assert list(pd.read_csv(tmp_path / "predictions.csv")["cell"]) == list(adata.obs_names)
