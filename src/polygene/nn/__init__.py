"""The network: packed rows, attention, BertModel and its heads, losses. torch and transformers only."""
