"""Cells in, from any format and path; results out."""
