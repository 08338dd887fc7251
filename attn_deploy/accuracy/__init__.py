"""Accuracy of a classifier in any runtime, image by image. No torch: the device side uses it too."""
