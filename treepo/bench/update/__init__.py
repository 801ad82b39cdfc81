"""`treepo bench update`: one optimiser update, packed and with every trajectory on its own."""
