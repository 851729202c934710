"""How the process begins and ends: its address, environment, log and lifecycle."""
