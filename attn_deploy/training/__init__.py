"""Training of small image classifiers, to compare modules under one recipe."""
