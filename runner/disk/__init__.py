"""A cache that outlives the process: what slots held, as files in a folder."""
