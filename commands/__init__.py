"""The command line, a module per group of commands; `__main__.py` puts them together.

Stands above all rooms. Each command imports what it needs when it runs, so that --help answers at once.
"""
