"""What an answer may be: schemas and grammars that a draw of tokens is held to."""
