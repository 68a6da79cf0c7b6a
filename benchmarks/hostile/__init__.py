"""What `benchmarks/reliability.py` tries: kills, power cuts, hostile files and folders, texts that are no settings."""
