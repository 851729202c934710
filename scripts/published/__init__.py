"""What scripts/smollm2.py is made of: the wheel, the tensors in its GGUF file, and what is written beside them."""
