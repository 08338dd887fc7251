"""Context modules of dense prediction."""
