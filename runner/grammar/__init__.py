"""What an answer must look like: grammars compiled, and where an answer stands in its own."""
