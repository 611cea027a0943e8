"""The command line: a module for every kind of command, `main` to run them."""

from graphprune.cli.program import build_parser, main

__all__ = ["build_parser", "main"]
