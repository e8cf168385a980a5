"""The shop world: invented brands and products, their reviews, queries and customers, every annotation known."""
