"""benchmarks/models/calibrate.py: which labels are right, what groups of studies teach, and the checkpoint."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.models import calibrate
from polygene.model.calibration import level
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import MODELS

CD4, NAIVE = "CD4-positive, alpha-beta T cell", "naive thymus-derived CD4-positive, alpha-beta T cell"
LABELS = ("T cell", CD4, "CD8-positive, alpha-beta T cell", "memory B cell", "naive B cell", "monocyte", "leukocyte")
OTHERS = tuple(f"other {v}" for v in range(14))


@pytest.mark.parametrize(
    ("truth", "right"),
    [
        ("T cell", {"T cell", CD4, "CD8-positive, alpha-beta T cell"}),  # it and finer ones
        (CD4, {CD4}),
        (NAIVE, {CD4}),  # the finest that the model can say
        ("platelet", set()),  # leukocyte is not above it
        ("neutrophil", set()),  # leukocyte is too broad to be an answer
    ],
)
def test_a_label_is_right_that_is_the_type_or_finer_or_the_nearest_above(truth: str, right: set[str]) -> None:
    labels = (*LABELS, *OTHERS)
    found_V = calibrate.holding(labels, calibrate.table_of(labels), truth)
    assert {label for label, is_right in zip(labels, found_V, strict=True) if is_right} == right


def study(group: str, n_cells: int, shift: float, seed: int) -> calibrate.Predicted:
    """A study whose true label is less probable the larger the shift."""
    rng = np.random.default_rng(seed)
    logits_CV = rng.normal(0, 2, (n_cells, 5))
    p_CV = np.exp(logits_CV) / np.exp(logits_CV).sum(1, keepdims=True)
    told_CV = np.exp(logits_CV / shift) / np.exp(logits_CV / shift).sum(1, keepdims=True)
    truth_C = (told_CV.cumsum(1) < rng.random((n_cells, 1))).sum(1)
    holds_CV = np.eye(5, dtype=bool)[truth_C]
    most_C, right_C = p_CV.max(1), p_CV.argmax(1) == truth_C
    novelty_C = rng.normal(0, 0.1, n_cells)
    features = pd.DataFrame(
        {"unsure": np.log(1 - most_C) - np.log(most_C), "entropy": -(p_CV * np.log(p_CV)).sum(1), "novelty": novelty_C}
    )
    return calibrate.Predicted(
        group=group, leaves_CV=p_CV, holds_CV=holds_CV, right_C=right_C, known_C=holds_CV.any(1), features=features
    )


def test_sets_cover_groups_that_did_not_set_the_threshold_and_errors_are_calibrated() -> None:
    some = [study(f"group {k}", 300 + 200 * (k % 3), 1 + k / 6, k) for k in range(12)]
    calibration, scores = calibrate.learn(some)
    assert calibration.held == pytest.approx(0.9, abs=0.03)
    assert len(calibration.studies) == 12
    held = [(calibrate.typical(one.leaves_CV) >= calibration.least_A[level(0.9)])[one.holds_CV].mean() for one in some]
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    kept = scores["errors"]["unsure + entropy + novelty"]
    assert (kept["auroc"], kept["ece"]) == (pytest.approx(calibration.auroc), pytest.approx(0.06, abs=0.05))
    error_C = calibration.error(np.concatenate([one.features.to_numpy() for one in some]))
    assert error_C.mean() == pytest.approx(np.mean([1 - one.right_C.mean() for one in some]), abs=0.03)


def test_ece_is_the_mean_gap_of_bins_of_equally_many_cells() -> None:
    p_C = np.repeat([0.1, 0.6], 30)
    true_C = np.tile([True, False], 30)
    assert calibrate.ece(p_C, true_C, bins=2) == pytest.approx((0.4 + 0.1) / 2)


def test_a_checkpoint_gets_the_calibration_and_stays_whole(tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "polygene-512", folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    calibration, _ = calibrate.learn([study(f"group {k}", 100, 2, k) for k in range(9)])
    model = PolyGene.from_pretrained(folder, device="cpu")
    calibrate.store(folder, replace(model.calibration, studies={"cell_type": calibration}))
    loaded = PolyGene.from_pretrained(folder, device="cpu").calibration
    assert loaded.studies["cell_type"].least_A == list(calibration.least_A)
    assert loaded.labels == model.calibration.labels
    assert {name for name, content in before.items() if (folder / name).read_bytes() != content} == {
        "calibration.json", "SHA256SUMS", "README.md",
    }  # fmt: skip
    once = (folder / "README.md").read_text()
    assert "9 groups of studies (group 0, group 1, " in once
    assert once.replace("\n", "").startswith(before["README.md"].decode().split("## Which")[0][:500].replace("\n", ""))
    calibrate.store(folder, loaded)
    assert (folder / "README.md").read_text() == once
