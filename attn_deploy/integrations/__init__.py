"""The zoo in the registries of other people's training frameworks."""
