"""What layers remember: a storage for each layer, a memory of all of them, and the slots."""
