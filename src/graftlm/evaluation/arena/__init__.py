"""Models against each other: battles judged by people, by other models or by an exam, and ratings made of them."""
