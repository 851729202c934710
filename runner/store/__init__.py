"""Finding a model's files and reading their descriptions and headers, but no tensor."""
