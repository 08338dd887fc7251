"""From a name to a module with its weights: grammar, packages, checkpoints, trained runs, slots."""
