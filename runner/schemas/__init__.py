"""JSON schemas, written anew so that the grammar compiler keeps them to the letter."""
