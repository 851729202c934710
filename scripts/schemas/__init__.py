"""The official test suite of JSON Schema, run through the grammar of each schema."""
