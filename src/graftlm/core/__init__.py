"""Layer 0: errors, files, hashing, progress, seeds, receipts. Imports nothing of graft."""
