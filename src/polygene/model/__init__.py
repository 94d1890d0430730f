"""PolyGene: a tokenizer and a network, and what they predict."""
