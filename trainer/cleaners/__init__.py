"""Filters of documents: language, quality, contamination, exact and near duplicates."""
