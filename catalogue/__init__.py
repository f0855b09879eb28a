"""Public model files: what they are, which of them are there, and getting them.

The table in `public_files` imports nothing heavy, so that messages of the nodes can name a file. Nothing here is
downloaded but by `bolid models download`.
"""
