"""The Parquet ledger of rts-search: schemas, writer, queries and statistics."""
