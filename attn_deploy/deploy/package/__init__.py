"""A folder that stands alone: the file or engine with its server configuration, its clients and its evidence."""
