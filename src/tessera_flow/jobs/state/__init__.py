"""Find out in which state a run and its products are."""
