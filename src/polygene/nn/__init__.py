"""The network: packed rows, attention, BERT's encoder and its heads, losses. torch only."""
