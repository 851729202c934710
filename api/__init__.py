"""The door: HTTP, JSON and the command line. Never sees an array (those live in `runner/`)."""
