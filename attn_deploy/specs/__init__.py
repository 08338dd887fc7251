"""What is known of a model as data, and where it is written down; `registry` is the way in. No torch."""
