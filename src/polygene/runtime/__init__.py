"""Processes, progress, atomic files, TOML, hashing: nothing of biology."""
