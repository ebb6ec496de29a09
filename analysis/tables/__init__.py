"""What the Parquet files of a run hold, and their readers and writers."""
