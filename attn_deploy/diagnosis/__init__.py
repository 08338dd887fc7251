"""Which part of a finished graph breaks a build or the numbers: found by trying parts, told in the names of modules."""
