"""The Parquet files of a run: their columns, readers and writers."""
