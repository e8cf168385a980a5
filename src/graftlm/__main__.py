"""`python -m graftlm` is the `graft` command."""

from graftlm.cli import main

main()
