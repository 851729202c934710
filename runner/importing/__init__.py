"""Writing a model into an Ollama store."""
