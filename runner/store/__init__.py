"""Finding a model's files and reading their descriptions, but no tensor: `hf_dir.py` for directories."""
