"""How a query is answered: it knows numbers, and neither FAISS nor files."""
