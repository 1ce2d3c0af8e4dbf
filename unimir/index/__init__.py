"""Bundle and catalog to a collection: what is stored of an item, where, and how it gets there."""
