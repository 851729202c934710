"""What layers remember: one storage per layer (`kv.py` and its kin), and the single prefix entry (`prefix.py`)."""
