"""Genes, bins, phenotypes and the tokenizer. numpy and pandas only."""
