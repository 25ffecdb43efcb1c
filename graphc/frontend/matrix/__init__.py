"""Linear algebra on traced matrices: factorizations, compositions, and the names that `graphc.linalg` gives them."""
