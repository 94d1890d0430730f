"""From a laptop to an atlas: what grows with the cells, what parts and hosts give, what size of network to train."""
