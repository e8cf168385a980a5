"""Other tools' configuration files, as recipes."""
