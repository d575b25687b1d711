"""All SQL of conversations: the tables, the rows of threads, lists of them, and search."""
