"""A cluster in one process: every attack and training step is computed, in the order of a virtual clock."""
