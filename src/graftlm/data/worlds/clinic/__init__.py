"""The clinic world: an invented hospital whose facts are known to the last one."""
