"""What all pages are made of: markup escaped by construction, one stylesheet, and a policy on what may run."""
