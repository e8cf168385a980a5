"""What makes one answer right: a file for each kind of answer that a benchmark asks for."""
