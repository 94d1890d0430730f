"""Cells of any format and place in; results out."""
