"""Measures a server: `python -m services.load --help`; services/docs/load.md says what its figures mean."""
