"""What the page sends; longer texts, and words that are not named here, are refused."""

from typing import Annotated

from pydantic import BaseModel, Field

from polygene.model.shipped import DEFAULT

Text = Annotated[str, Field(max_length=4096)]


class Run(BaseModel):
    """What is predicted, and how; `plane` is a map that the file has."""

    model: Text = DEFAULT
    given: list[Text] = []
    predict: list[Text] | None = None
    coverage: float | None = None
    back_off: float | None = None
    vote: dict[Text, Text] | None = None
    plane: Text | None = None


class WhatIf(BaseModel):
    """What is changed about the selected cells: labels, or genes."""

    changes: dict[Text, Text] = {}
    knock_out: list[Text] = []
    over_express: list[Text] = []
    donor: Text = "donor_id"


class Opened(BaseModel):
    """A file by its path (None: the example), or the open file `again`, with another layer."""

    path: Text | None = None
    layer: Text | None = None
    again: bool = False


class Named(BaseModel):
    """A gene, or a token."""

    name: Text
