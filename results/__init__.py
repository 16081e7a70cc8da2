"""The Parquet ledger: schemas, writer, queries and statistics."""
