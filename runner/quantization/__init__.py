"""What a quantized tensor is: its settings, the names and layouts it has in files, and its numbers."""
