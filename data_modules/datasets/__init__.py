"""The datasets: what is known of each, its wording and its labels."""
