"""Every public object reads as a few lines at a prompt."""

import pandas as pd
import pytest

import polygene as pg

SCREEN = (24, 2_000)
"""Lines and characters at most."""


@pytest.fixture(scope="module")
def objects(toy_corpus):
    """An object of each public class, as large as they come, and what hangs on it."""
    model = pg.PolyGene.from_pretrained("polygene-2432", device="cpu")
    tokenizer = model.tokenizer
    match = tokenizer.panel.match(pd.DataFrame(index=list(tokenizer.panel.symbols[:100])))
    return [
        model,
        *(model.recipe, model.metrics, model.calibration, model.novelty),
        *(tokenizer, tokenizer.panel, tokenizer.binner, tokenizer.schema, tokenizer.inverse),
        *(pg.ExpressionBinner.linear(n_bins=256), match),
        *(toy_corpus, toy_corpus.split("train").cells(slice(None))),
    ]


def test_every_public_object_fits_a_screen(objects):
    classes = {getattr(pg, name) for name in pg.__all__ if isinstance(getattr(pg, name), type)}
    assert classes <= {type(one) for one in objects}, "each public class is among them"
    for one in objects:
        text = repr(one)
        assert (len(text.splitlines()) <= SCREEN[0]) & (len(text) <= SCREEN[1]), f"{type(one)}: {len(text)} characters"


def test_a_model_says_what_it_knows_and_where_it_runs(objects):
    model, text = objects[0], repr(objects[0])
    n_types = len(model.tokenizer.schema.labels[model.tokenizer.schema.index("cell_type")])
    for fact in ("polygene-2432", "2,432 genes", "on cpu", f"cell_type  {n_types} labels", "novelty: detected"):
        assert fact in text
