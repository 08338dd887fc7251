"""Pure functions from records to what people read. Nothing is computed here."""
