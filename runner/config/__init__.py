"""Reading config.json."""
