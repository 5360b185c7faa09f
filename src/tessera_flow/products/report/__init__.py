"""Write the HTML report of a region and period."""
