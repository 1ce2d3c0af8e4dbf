"""The data room: corpora in, prepared directories of Parquet out; knows no tensor, no model and no index."""
