"""Export a product in another form: format, dimensions, cells, grid."""
