"""Tokenised cells on disk: split donors, rank genes, tokenise, read in any order."""
