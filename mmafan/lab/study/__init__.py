"""Studies: arms x seeds, trained by one runner and compared with a baseline."""
