"""The page that shows the hand-over is run as it stands."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import scanpy as sc
from typer.testing import CliRunner

from polygene.cli import app

PAGE = (Path(__file__).parents[1] / "docs/interoperation.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_all_that_the_page_says_runs(make_adata, write_as, tiny_model, tmp_path, monkeypatch):
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
    tiny_model.save_pretrained(tmp_path / "polygene-demo/model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL):
        if language == "python":
            exec(compile(block, "interoperation.md", "exec"), names)
        else:
            for line in block.splitlines():
                assert CliRunner().invoke(app, shlex.split(line)[1:]).exit_code == 0, line
    answered = names["adata"].obs["polygene_cell_type"]
    assert answered.notna().all()
    assert names["adata"].obsm["X_umap"].shape == (150, 2)
    assert names["confident"].n_obs > 0
    assert list(pd.read_csv("answers.csv")["cell"]) == list(adata.obs_names)
