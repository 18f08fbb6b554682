"""A table as people read it: Markdown, LaTeX, terminal, HTML page, figure, TensorBoard."""
