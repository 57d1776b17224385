"""Serve a bundle over gRPC."""
