"""The protocol of the host: bodies in, records and plain answers out."""
