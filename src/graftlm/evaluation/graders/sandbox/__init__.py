"""Runs programs written by a model, judged from a second process; what runs in it needs the standard library only."""
