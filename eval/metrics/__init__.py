"""Caption metrics, one file each."""
