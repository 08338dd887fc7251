"""From a model to a gated package in one file: trains, exports, quantizes, builds, measures and packages, step by step."""
