"""What differs between machines: the device, its memory, the BLAS, and a log level that Python has no name for."""
