"""Plan and run the jobs of a table of sites."""
