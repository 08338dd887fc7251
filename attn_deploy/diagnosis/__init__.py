"""Which part of a finished graph breaks a build or the numbers: by trying parts, in the names of modules."""
