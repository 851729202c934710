"""From a model's files to a model that is ready to answer."""
