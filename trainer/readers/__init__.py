"""Readers: files of each format as streams of text, with errors that name the file, the line and the remedy."""
