"""What attention remembers: one storage per layer (`kv.py`), and the single prefix entry (`prefix.py`)."""
