"""What measures speed and learning, against peers: `python -m benchmarks.NAME`. README.md says how to read it."""
