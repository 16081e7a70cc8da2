"""The Parquet files of the ledger: their names, content, reading and merging."""
