"""A leaderboard in one file: results kept in SQLite, ranked with their uncertainty, shown as a table or a page."""
